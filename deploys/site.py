"""The whole tier: every node of inventory.py, in one run."""

from pyinfra import host

from operations.basic_setup import backend
from operations.foundation import foundation

foundation()
if "backends" in host.groups:
    backend()
