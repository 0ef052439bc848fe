"""The whole tier: every node of inventory.py, each in its role, in one run."""

from pyinfra import host

from operations.roles import role

role(*host.groups)
