"""The node's static address, changed as a transaction whose undo is armed before anything is touched."""

import hashlib
from collections.abc import Generator, Sequence
from typing import Any

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, OperationError, OperationValueError, State, operation
from pyinfra.api.exceptions import PyinfraError

from facts.interface import ADDRESS_GUARD, ADDRESS_STATE, GUARD_UNIT, File, Interface
from facts.network import LanInterface
from facts.ours import GUARD
from facts.several import Question
from operations.primitives.address_file import AddressError, Change, Wanted, change, wanted
from operations.primitives.address_findings import findings, settled
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.confirmed import Confirmation, ConfirmationError, Guarded, NewFile, request
from operations.primitives.foretold import foretold, present

ADDRESS = Guarded(
    program=ADDRESS_GUARD,
    state=ADDRESS_STATE,
    files=ConfigSet(
        (ConfigFile(GUARD, mode="755"), ConfigFile(ADDRESS_GUARD, mode="755"), ConfigFile(GUARD_UNIT))
    ),
    unit=GUARD_UNIT.rpartition("/")[2],
)
# dhcpcd probes an address for 6 s before it uses it; below this a good address would be undone.
LEAST_SECONDS = 10


def guard_differs(now: Interface) -> tuple[ConfigFile, ...]:
    """The files of the guard that are not on the node as they are here."""
    return tuple(
        file
        for file in ADDRESS.files.files
        if now["files"].get(file.path)
        != File(
            mode=file.mode,
            owner=file.owner,
            sha256=hashlib.sha256(ADDRESS.contents[file.path]).hexdigest(),
        )
    )


def guarded(now: Interface) -> bool:
    """Whether the undo would be ready, should the address be changed; it outlives a power loss."""
    return now["guard_enabled"] and not guard_differs(now)


def _question(interface: str = "", **_: object) -> Question:
    return Question(LanInterface, {"interface": interface})


@foretold(_question)
@operation()
def static_address(
    address: str,
    gateway: str,
    dns: Sequence[str] = (),
    confirm_seconds: int = 60,
    interface: str = "",
) -> Generator[FunctionCommand, None, None]:
    """
    Give the interface that carries this session a static address, by whichever network manager is in charge of
    it, and go on over the new address.

    + address: the address with its prefix length
    + gateway: the default gateway, in the same network
    + dns: name servers
    + confirm_seconds: seconds until the node undoes a change not confirmed over the new address; 10 at least
    + interface: another interface than the one that carries the session

    What the profile in charge said beyond the address is kept. An address that another machine holds is refused
    with nothing changed, and so is whatever `findings` knows. A gateway that does not answer, a node that cannot
    be reached at its new address, another host key there: the node goes back where it was.

    **Example:**

    .. code:: python

        static_address(
            name="Static address",
            address="192.168.86.19/24",
            gateway="192.168.86.1",
            dns=["192.168.86.1"],
        )
    """
    try:
        want = wanted(address, gateway, dns)
    except AddressError as error:
        raise OperationValueError(str(error)) from None
    if not isinstance(confirm_seconds, int):
        raise OperationValueError(f"confirm_seconds is {confirm_seconds!r}: it is a number of seconds.")
    if confirm_seconds < LEAST_SECONDS:
        raise OperationValueError(
            f"confirm_seconds is {confirm_seconds}: a node takes up to {LEAST_SECONDS} s to apply an address."
        )
    now: Interface = present(_question(interface))
    if host.state.is_executing and not right(now, want, interface):
        # Asked while the node booted, or by an operation before this one: what is done counts as a change.
        now = host.get_fact(LanInterface, interface=interface)
    if right(now, want, interface):
        host.noop(f"{address} is the static address of {now['interface']}")
        return
    if problems := findings(now, want, interface):
        raise OperationError(" ".join(problems))
    yield FunctionCommand(move, (address, gateway, list(dns), confirm_seconds, interface), {})


def right(now: Interface, want: Wanted, interface: str) -> bool:
    """Whether there is nothing to do."""
    return (
        not now["pending"]
        and not findings(now, want, interface)
        and settled(now, want, change(now, want))
        and guarded(now)
    )


def move(
    state: State,
    host: Host,
    address: str,
    gateway: str,
    dns: list[str],
    confirm_seconds: int,
    interface: str,
) -> bool:
    """Do it, or say in one sentence why not and where the node answers."""
    try:
        carry_out(host, wanted(address, gateway, dns), confirm_seconds, interface)
    except (AddressError, ConfirmationError, PyinfraError) as error:
        host.log_styled(str(error), fg="red", log_func=logger.error)
        return False
    return True


def carry_out(host: Host, want: Wanted, confirm_seconds: int, interface: str) -> None:
    """One node's way to another address; AddressError or ConfirmationError say how it ended."""
    confirmation = Confirmation(host, ADDRESS, str(want.address), confirm_seconds)
    at = str(want.address.ip)
    now = host.get_fact(LanInterface, interface=interface)
    if pending := now["pending"]:
        back = [pending["previous_address"]] if pending["previous_address"] else []
        if confirmation.resume(pending, identity(now, want), at, back):
            return
        now = host.get_fact(LanInterface, interface=interface)
        if now["pending"]:
            raise ConfirmationError(
                "an earlier change of the address is still being undone; run the deploy again."
            )
    if problems := findings(now, want, interface):
        raise AddressError(" ".join(problems))
    target = change(now, want)
    if settled(now, want, target):
        install_guard(confirmation, now)
        return
    confirmation.learn_keys()
    confirmation.refuse_a_stranger(at)
    install_guard(confirmation, now)
    previous = previous_address(now, confirmation.before)
    answer = confirmation.arm(asked(now, want, target, previous))
    if answer["result"] == "in use":
        raise ConfirmationError(f"{at} is in use by {answer['mac']}: nothing was changed.")
    confirmation.confirm(target.sha256, at, [previous] if previous else [])


def identity(now: Interface, want: Wanted) -> str | None:
    """Which change ours would be; None on a node that is between two managers just now."""
    try:
        return change(now, want).sha256
    except AddressError:
        return None


def install_guard(confirmation: Confirmation, now: Interface) -> None:
    """Have the guard and its boot unit on the node as they are here."""
    if not guarded(now):
        confirmation.install(guard_differs(now))


def previous_address(now: Interface, came_by: str) -> str | None:
    """Where the node will answer once more after an undo."""
    present = [one["address"].partition("/")[0] for one in now["addresses"]]
    return came_by if came_by in present else next(iter(present), None)


def asked(now: Interface, want: Wanted, target: Change, previous: str | None) -> dict[str, Any]:
    """What node/address_guard.py is asked for."""
    there = now["files"].get(target.path)
    return request(
        [NewFile(target.path, target.mode, target.content, there and there["sha256"])],
        manager=now["manager"],
        netplan=now["netplan"],
        interface=now["interface"],
        connection=target.connection,
        previous=now["connection"] and now["connection"]["uuid"],
        previous_address=previous,
        address=str(want.address),
        gateway=str(want.gateway),
    ) | {"sha256": target.sha256}
