"""The whole tier: every node of inventory.py, in one run."""

from pyinfra import host

from operations.basic_setup import backend, frontend
from operations.failover import failover
from operations.foundation import foundation

foundation()
if "backends" in host.groups:
    backend()
if "frontends" in host.groups:
    frontend()
    failover()
