"""The node's static address, changed as a transaction whose undo is armed before anything is touched."""

import base64
import contextlib
import hashlib
import ipaddress
import json
import re
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from paramiko import HostKeys, SSHException
from pyinfra import host, logger
from pyinfra.api import (
    FunctionCommand,
    Host,
    OperationError,
    OperationValueError,
    QuoteString,
    State,
    StringCommand,
    operation,
)
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput

from facts.network import (
    DHCPCD,
    FAILED,
    GUARD,
    GUARD_UNIT,
    NETPLAN,
    NETWORKD,
    NETWORKMANAGER,
    PENDING,
    DefaultInterface,
    File,
    Interface,
)
from operations.primitives.config_set import TEMPLATES, ConfigFile, ConfigSet, transaction

SOURCES = {path: TEMPLATES / path.lstrip("/") for path in (GUARD, GUARD_UNIT)}
GUARD_FILES = ConfigSet((ConfigFile(GUARD, mode="755"), ConfigFile(GUARD_UNIT)))
MANAGED = "# Managed by the okome repository; changes made here are lost."
BEGIN, END = MANAGED, "# End of what the okome repository manages."
# dhcpcd probes an address for 6 s before it uses it; below this a good address would be undone.
LEAST_SECONDS = 10
# sysexits: EX_TEMPFAIL, the guard's "not applied yet".
NOT_YET = 75


class Wanted(NamedTuple):
    """The address a node shall have."""

    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address
    dns: tuple[ipaddress.IPv4Address, ...]


class Change(NamedTuple):
    """One whole file, and the NetworkManager connection (id or UUID) that brings it into effect."""

    path: str
    mode: str
    content: bytes
    connection: str | None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class AddressError(Exception):
    """Why the address was not changed, in one sentence for the operator."""


def wanted(address: str, gateway: str, dns: Sequence[str]) -> Wanted:
    """Check what the operator typed; OperationValueError says in one sentence what is wrong with it."""
    if isinstance(dns, str):
        raise OperationValueError(f"the name servers are a list of addresses, not {dns!r}.")
    if "/" not in address:
        raise OperationValueError(f"{address!r} has no prefix length: write it as {address}/24.")
    try:
        own = ipaddress.IPv4Interface(address)
        via = ipaddress.IPv4Address(gateway)
        servers = tuple(ipaddress.IPv4Address(server) for server in dns)
    except ValueError as error:
        raise OperationValueError(f"malformed address: {error}.") from None
    network = own.network
    if via not in network:
        raise OperationValueError(f"the gateway {via} is not in {network}, the network of {own}.")
    if network.prefixlen < 31:
        for which, special in (
            ("network", network.network_address),
            ("broadcast", network.broadcast_address),
        ):
            if special in (own.ip, via):
                raise OperationValueError(
                    f"{special} is the {which} address of {network}, no node can have it."
                )
    if own.ip.is_loopback or own.ip.is_multicast or own.ip.is_unspecified:
        raise OperationValueError(f"{own.ip} is not an address that a node can have on a LAN.")
    if own.ip == via:
        raise OperationValueError(f"the address and the gateway are both {via}.")
    return Wanted(own, via, servers)


# --- what the file says ------------------------------------------------------------------------------------


def networkmanager_file(want: Wanted, interface: str) -> str:
    """A profile that outranks NetworkManager's own "Wired connection 1" on this interface."""
    dns = "".join(f"{server};" for server in want.dns)
    return f"""{MANAGED}
[connection]
id=okome-lan
type=ethernet
interface-name={interface}
autoconnect-priority=100

[ipv4]
method=manual
address1={want.address},{want.gateway}
dns={dns}

[ipv6]
method=auto
"""


def netplan_file(want: Wanted, identity: str) -> str:
    """The same definition again: netplan merges it over the earlier file, `match` and all."""
    dns = ", ".join(map(str, want.dns))
    return f"""{MANAGED}
network:
  version: 2
  ethernets:
    {json.dumps(identity)}:
      dhcp4: false
      addresses: ["{want.address}"]
      routes: [{{to: default, via: {want.gateway}}}]
      nameservers: {{addresses: [{dns}]}}
"""


def networkd_file(want: Wanted, interface: str) -> str:
    """systemd-networkd takes the first file that matches: ours is 00-."""
    dns = "".join(f"DNS={server}\n" for server in want.dns)
    return f"""{MANAGED}
[Match]
Name={interface}

[Network]
Address={want.address}
Gateway={want.gateway}
{dns}"""


def dhcpcd_file(want: Wanted, interface: str, before: str) -> str:
    """dhcpcd knows no drop-ins: one marked block at the end, every other byte of the file as it was."""
    block = [
        BEGIN,
        f"interface {interface}",
        f"static ip_address={want.address}",
        f"static routers={want.gateway}",
    ]
    if want.dns:
        block.append(f"static domain_name_servers={' '.join(map(str, want.dns))}")
    rest = without_block(before)
    return f"{rest}{'' if not rest or rest.endswith(chr(10)) else chr(10)}" + "\n".join([*block, END, ""])


def without_block(text: str) -> str:
    """dhcpcd.conf without our block (and without one that somebody cut the end off)."""
    begin = r"# Managed by the okome repository(?: \([^)\n]*\))?; changes made here are lost\."  # also an earlier one
    return re.sub(rf"(?ms)^{begin}$.*?(?:^{re.escape(END)}$\n?|\Z)", "", text)


def change(now: Interface, want: Wanted) -> Change:
    """The file that gives this interface its address; OperationError where that cannot be."""
    interface, manager, netplan = now["interface"], now["manager"], now["netplan"]
    if interface is None:
        raise OperationError("no interface has a default route or a carrier: nothing to give the address to.")
    if now["wireless"] and manager != "dhcpcd":
        raise OperationError(f"{interface} is wireless: the static address is for a wired interface.")
    if netplan:
        for path, keys in now["definitions"].items():
            if taken := {"addresses", "gateway4", "routes"} & set(keys):
                raise OperationError(
                    f"{path} already sets {', '.join(sorted(taken))} for {netplan}, and netplan would add to"
                    " that instead of replacing it: remove it there first."
                )
        content = netplan_file(want, netplan)
        return Change(NETPLAN, "600", content.encode(), now["connection"] and now["connection"]["uuid"])
    if manager == "NetworkManager":
        return Change(NETWORKMANAGER, "600", networkmanager_file(want, interface).encode(), "okome-lan")
    if manager == "systemd-networkd":
        return Change(NETWORKD, "644", networkd_file(want, interface).encode(), None)
    if manager == "dhcpcd":
        text = dhcpcd_file(want, interface, now["dhcpcd_conf"])
        mode = now["files"][DHCPCD]["mode"] if DHCPCD in now["files"] else "644"
        return Change(DHCPCD, mode, text.encode(errors="surrogateescape"), None)
    if manager == "ifupdown":
        raise OperationError(
            f"{interface} is configured by ifupdown (/etc/network/interfaces), which is not supported:"
            " let NetworkManager or systemd-networkd manage it."
        )
    raise OperationError(f"no known network manager is in charge of {interface}.")


def settled(now: Interface, want: Wanted, target: Change) -> bool:
    """Whether all is there already: file, address, route, and nothing left of a lease or an open change."""
    addresses = {one["address"]: one["dynamic"] for one in now["addresses"]}
    return (
        now["files"].get(target.path) == File(mode=target.mode, owner="root", sha256=target.sha256)
        and now["pending"] is None
        and now["gateway"] == str(want.gateway)
        and addresses.get(str(want.address)) is False
        and not any(addresses.values())
        and (
            now["netplan"] is not None
            or now["connection"] is None
            or now["connection"]["file"] == target.path
        )
    )


def guard_differs(now: Interface) -> tuple[ConfigFile, ...]:
    """The files of the guard that are not on the node as they are here."""
    return tuple(
        file
        for file in GUARD_FILES.files
        if now["files"].get(file.path)
        != File(
            mode=file.mode,
            owner=file.owner,
            sha256=hashlib.sha256(SOURCES[file.path].read_bytes()).hexdigest(),
        )
    )


def guarded(now: Interface) -> bool:
    """Whether the undo would be ready, should the address be changed; it outlives a power loss."""
    return now["guard_enabled"] and not guard_differs(now)


# --- how it gets there -------------------------------------------------------------------------------------


@operation()
def static_address(
    address: str, gateway: str, dns: Sequence[str] = (), confirm_seconds: int = 60
) -> Generator[FunctionCommand, None, None]:
    """
    Give the interface with the default route a static address, by whichever network manager is in charge
    of it, and go on over the new address.

    + address: the address with its prefix length
    + gateway: the default gateway, in the same network
    + dns: name servers
    + confirm_seconds: seconds until the node undoes a change not confirmed over the new address; 10 at least

    An address that another machine holds is refused with nothing changed. A gateway that does not answer, a
    node that cannot be reached at its new address, another host key there: the node goes back where it was.

    **Example:**

    .. code:: python

        static_address(
            name="Static address",
            address="192.168.86.19/24",
            gateway="192.168.86.1",
            dns=["192.168.86.1"],
        )
    """
    want = wanted(address, gateway, dns)
    if not isinstance(confirm_seconds, int):
        raise OperationValueError(f"confirm_seconds is {confirm_seconds!r}: it is a number of seconds.")
    if confirm_seconds < LEAST_SECONDS:
        raise OperationValueError(
            f"confirm_seconds is {confirm_seconds}: a node takes up to {LEAST_SECONDS} s to apply an address."
        )
    now = host.get_fact(DefaultInterface)
    if settled(now, want, change(now, want)) and guarded(now):
        host.noop(f"{address} is the static address of {now['interface']}")
        return
    yield FunctionCommand(move, (address, gateway, list(dns), confirm_seconds), {})


def move(state: State, host: Host, address: str, gateway: str, dns: list[str], confirm_seconds: int) -> bool:
    """Do it, or say in one sentence why not and where the node answers."""
    try:
        Move(host, wanted(address, gateway, dns), confirm_seconds).run()
    except (AddressError, OperationError) as error:
        host.log_styled(str(error), fg="red", log_func=logger.error)
        return False
    return True


class Move:
    """One node on its way to another address."""

    def __init__(self, host: Host, want: Wanted, confirm_seconds: int) -> None:
        if not isinstance(host.connector, SSHConnector):
            raise AddressError("a static address is set over SSH only.")
        self.host = host
        self.connector = host.connector
        self.want = want
        self.confirm_seconds = confirm_seconds
        self.address = str(want.address.ip)
        self.before = self.connector.data["ssh_hostname"] or host.name
        self.keys = {self.remote_key()}
        given = host.current_op_global_arguments
        self.arguments = {
            key: value for key, value in (given or {}).items() if key in CONNECTOR_ARGUMENT_KEYS
        }

    def run(self) -> None:
        now = self.host.get_fact(DefaultInterface)
        target = change(now, self.want)
        if pending := now["pending"]:
            # Left by a control machine that died: finish it if it is this change and we came by its address.
            self.learn_keys()
            if pending["sha256"] == target.sha256 and self.before == self.address:
                if trouble := self.confirm(target, time.monotonic() + self.confirm_seconds):
                    raise AddressError(self.undone(trouble, pending["previous_address"]))
                return
            self.abandon()
            self.find(pending["previous_address"])
            now = self.host.get_fact(DefaultInterface)
            target = change(now, self.want)
            if now["pending"]:
                raise AddressError(
                    "an earlier change of the address is still being undone; run the deploy again."
                )
        if settled(now, self.want, target):
            self.install_guard(now)
            return
        self.learn_keys()
        self.refuse_a_stranger()
        self.install_guard(now)
        previous = self.arm(now, target)
        if trouble := self.confirm(target, time.monotonic() + self.confirm_seconds):
            raise AddressError(self.undone(trouble, previous))

    # What is asked of the node, each within a time.

    def ask(self, *command: Any, stdin: str | None = None, seconds: float = 30) -> tuple[bool, CommandOutput]:
        """Run a command there. A dead link is an AddressError: pyinfra's own _timeout does not end it."""
        try:
            with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:.0f} s")):
                return self.host.run_shell_command(
                    StringCommand(*command), **self.arguments | {"_stdin": stdin}
                )
        except (OSError, EOFError, SSHException) as error:
            raise AddressError(f"the connection broke ({error})") from error

    def learn_keys(self) -> None:
        """All host keys of the node: known_hosts may make SSH prefer another type at the new address."""
        _, output = self.ask("cat /etc/ssh/ssh_host_*_key.pub", seconds=10)
        for line in output.stdout_lines:
            kind, blob = line.split()[:2]
            self.keys.add((kind, base64.b64decode(blob)))

    def refuse_a_stranger(self) -> None:
        """A re-imaged node has new host keys: better said now than found out at the new address."""
        file = Path(self.connector.data["ssh_known_hosts_file"] or "~/.ssh/known_hosts").expanduser()
        known = HostKeys(str(file)).lookup(self.address) if file.exists() else None
        if known and not any((kind, key.asbytes()) in self.keys for kind, key in known.items()):
            raise AddressError(
                f"{file} knows another machine at {self.address}: nothing was changed. If this node was"
                f" imaged anew, run: ssh-keygen -f {file} -R {self.address}"
            )

    def install_guard(self, now: Interface) -> None:
        """Upload the guard and its boot unit, where they are not what they are here."""
        contents: dict[str, bytes | None] = {path: source.read_bytes() for path, source in SOURCES.items()}
        if files := guard_differs(now):
            self.check("python3 -I -", *GUARD_FILES.paths, stdin=transaction(GUARD_FILES, contents, files))
        if files or not now["guard_enabled"]:
            self.check("systemctl daemon-reload && systemctl enable --quiet", GUARD_UNIT.rpartition("/")[2])

    def check(self, *command: str, stdin: str | None = None) -> None:
        """Run a command that has to work."""
        done, output = self.ask(*command, stdin=stdin)
        if not done:
            raise AddressError(f"nothing was changed: {_said(output)}")

    def arm(self, now: Interface, target: Change) -> str | None:
        """Arm the undo; the guard applies the change a moment later. Returns the present IPv4 address."""
        present = [one["address"].partition("/")[0] for one in now["addresses"]]
        previous = self.before if self.before in present else next(iter(present), None)
        there = now["files"].get(target.path)
        request = {
            "manager": now["manager"],
            "netplan": now["netplan"],
            "interface": now["interface"],
            "connection": target.connection,
            "previous": now["connection"] and now["connection"]["uuid"],
            "previous_address": previous,
            "path": target.path,
            "mode": int(target.mode, 8),
            "content": base64.b64encode(target.content).decode(),
            "was": there and there["sha256"],
            "address": str(self.want.address),
            "gateway": str(self.want.gateway),
            "seconds": self.confirm_seconds,
        }
        try:
            done, output = self.ask(GUARD, "arm", stdin=json.dumps(request))
        except AddressError as error:
            raise AddressError(
                f"{error}; what the node may have begun, it undoes within {self.confirm_seconds} s."
            ) from error
        if not done:
            raise AddressError(f"nothing was changed: {_said(output)}")
        answer = json.loads(output.stdout)
        if answer["result"] == "in use":
            raise AddressError(f"{self.address} is in use by {answer['mac']}: nothing was changed.")
        return previous

    def confirm(self, target: Change, deadline: float) -> str | None:
        """Confirm over new connections to the new address; returns what kept that from working."""
        trouble = "nobody answered there"
        while time.monotonic() < deadline:
            try:
                self.connect(self.address)
                done, output = self.ask(
                    "sh -c", QuoteString(f"{GUARD} confirm {target.sha256}; echo exit $?"), seconds=20
                )
            except AddressError as error:
                trouble = str(error)
            else:
                status = int(output.stdout_lines[-1].split()[1]) if done else 1
                if status == 0:
                    return None
                if status != NOT_YET:
                    self.abandon()
                    return _said(output)
                trouble = "the node did not finish applying it"
            gevent.sleep(0.3)
        return f"it could not be confirmed at {self.address} within {self.confirm_seconds} s ({trouble})"

    def abandon(self) -> None:
        """Have the node run its undo now, detached from this connection."""
        # Should this not get through: the undo's timer runs there anyway, and `find` waits for it.
        with contextlib.suppress(AddressError):
            self.ask(GUARD, "abandon", seconds=10)

    def undone(self, trouble: str, previous: str | None) -> str:
        """Wait for the undo, and say how it ended."""
        reached = self.find(previous)
        _, output = self.ask(f"! test -e {FAILED} || cat {FAILED}", seconds=10)
        reason = (output.stdout.strip() or trouble).rstrip(".")
        return f"{self.want.address} was undone: {reason}; the node answers at {reached}."

    # Connections.

    def find(self, previous: str | None) -> str:
        """Connect to the node at its earlier address, once its undo is through."""
        places = list(dict.fromkeys(place for place in (self.before, previous) if place))
        deadline = time.monotonic() + self.confirm_seconds + 45
        while time.monotonic() < deadline:
            for place in places:
                try:
                    self.connect(place)
                    pending, _ = self.ask(f"test -e {PENDING}", seconds=10)
                except AddressError:
                    continue
                if not pending:
                    return place
            gevent.sleep(0.5)
        raise AddressError(f"the node does not answer any more, neither at {' nor at '.join(places)}.")

    def connect(self, place: str) -> None:
        """A new connection, to the machine whose host key we know."""
        if self.connector.client:
            self.connector.client.close()
        self.host.disconnect()
        self.connector.data["ssh_hostname"] = place
        try:
            with gevent.Timeout(15, TimeoutError(f"no SSH at {place} within 15 s")):
                self.host.connect(show_errors=False, raise_exceptions=True)
        except (ConnectError, OSError, EOFError, SSHException) as error:
            raise AddressError(str(error)) from error
        if self.remote_key() not in self.keys:
            raise AddressError(f"another machine answers at {place}: its host key is not this node's")

    def remote_key(self) -> tuple[str, bytes]:
        """The host key of the machine at the other end."""
        transport = self.connector.client.get_transport() if self.connector.client else None
        if transport is None:
            raise AddressError("there is no SSH connection")
        key = transport.get_remote_server_key()
        return key.get_name(), key.asbytes()


def _said(output: CommandOutput) -> str:
    """The guard's sentence."""
    lines = [line.removeprefix("address_guard: ") for line in output.stderr_lines]
    return lines[-1] if lines else "the node gave no reason"
