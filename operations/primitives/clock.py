"""A node's clock, set from this machine's: a Pi has no battery, and wakes up on the day its card was written."""

import time
from collections.abc import Generator

from pyinfra import logger
from pyinfra.api import FunctionCommand, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.api.util import print_host_combined_output

from operations.primitives.ask import ask, connected

# A clock that is off by less does no harm to apt, which takes no list from the future. Seconds.
TOLERANCE = 60


def is_wrong(ahead: float, synchronised: bool, virtualization: str) -> bool:
    """Whether a clock has to be set before apt needs it. `ahead`: seconds. In a container the clock is the machine's,
    and a guest's is its host's to keep."""
    return virtualization == "none" and not synchronised and abs(ahead) > TOLERANCE


@operation()
def clock(ahead: float) -> Generator[FunctionCommand, None, None]:
    """
    Set the clock as this machine's is; time synchronisation takes it from there. Only where `is_wrong` says so.

    + ahead: seconds by which it was found ahead

    **Example:**

    .. code:: python

        clock(name="The clock", ahead=-86400.0)
    """
    yield FunctionCommand(_set, (ahead,), {})


@connected
def _set(state: State, host: Host, ahead: float) -> bool:
    way = "ahead" if ahead > 0 else "behind"
    logger.info(f"{host.print_prefix}its clock was {abs(ahead):.0f} s {way}: set as this machine's")
    done, output = ask(host, StringCommand(f"date --utc --set=@{time.time():.0f} >/dev/null"))
    if not done:
        print_host_combined_output(host, output)
    return done
