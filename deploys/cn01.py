"""CN01, the backend: Redis."""

from operations import basic_setup

basic_setup.backend()
