"""A reboot, waited for, and a look at what came up."""

import time
from collections.abc import Generator

import gevent
from paramiko import SSHException
from pyinfra import host, logger
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import FunctionCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from facts.packages import Upgrade
from facts.units import FailedUnits
from operations.primitives.ask import ask

# A file in RAM, gone after a boot. An uptime would be the machine's where the node is a container.
MARK = "/run/okome-before-reboot"
# s, for one connection and its answer
ANSWER = 20


def steps(reason: str | None, patience: int) -> tuple[StringCommand | FunctionCommand, ...]:
    """What is to be done to a node that has this reason for a reboot, or none. `patience`: seconds."""
    if reason is None:
        return ()
    # Later, so that the command itself comes to its end.
    return (
        StringCommand(f"touch {MARK} && systemd-run --quiet --on-active=1 systemctl reboot"),
        FunctionCommand(_wait, (patience,), {}),
    )


@operation()
def reboot_if_required(patience: int = 300) -> Generator[StringCommand | FunctionCommand, None, None]:
    """
    Reboot the node if an upgrade asks for it, and wait until it answers again.

    + patience: seconds that may take

    **Example:**

    .. code:: python

        reboot_if_required(name="Reboot, if the upgrade asks for it")
    """
    reason = host.get_fact(Upgrade).reboot
    if reason is None:
        host.noop("no reboot is required")
    else:
        logger.info(f"{host.print_prefix}reboot: {reason}")
    yield from steps(reason, patience)


def _wait(state: State, host: Host, patience: int) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        gevent.sleep(1)
        try:
            with gevent.Timeout(ANSWER, TimeoutError):
                host.disconnect()
                host.connect(show_errors=False, raise_exceptions=True)
                up, _ = ask(host, StringCommand(f"! test -e {MARK}"))
        except (ConnectError, OSError, EOFError, SSHException):
            continue  # not yet
        if up:
            return True
    host.log_styled(
        f"it did not come back within {patience} s of its reboot", fg="red", log_func=logger.error
    )
    return False


@operation()
def no_failed_units() -> Generator[FunctionCommand, None, None]:
    """
    Fail the node, naming them, if systemd could not start some of its units.

    **Example:**

    .. code:: python

        no_failed_units(name="Everything has started")
    """
    failed = host.get_fact(FailedUnits)
    if not failed:
        host.noop("no unit has failed")
        return
    yield FunctionCommand(_refuse, (failed,), {})


def _refuse(state: State, host: Host, failed: list[str]) -> bool:
    host.log_styled(f"units have failed: {', '.join(failed)}", fg="red", log_func=logger.error)
    return False
