"""The roles of a node, which are the groups of inventory.py, and the phases of each in their order."""

from pyinfra import host
from pyinfra.api import OperationError

from operations.basic_setup import backend, frontend
from operations.failover import failover
from operations.foundation import foundation
from operations.preflight import preflight
from operations.primitives.connection import explain_lost_connections


def role(*names: str) -> None:
    """All phases of a node that has these roles.

    One line for each phase, and no loop: pyinfra runs operations in the order of the lines that ask for them,
    and nodes of several roles do together what they have in common.
    """
    if strange := set(names) - set(host.groups):
        raise OperationError(
            f"{host.name} is not in {', '.join(strange)} of inventory.py. A node without a deploy of its name is "
            f"deploys/site.py --limit {host.name}."
        )
    explain_lost_connections()
    preflight(*names)
    foundation()
    if "backends" in names:
        backend()
    if "frontends" in names:
        frontend()
        failover()
