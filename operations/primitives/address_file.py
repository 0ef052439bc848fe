"""What a file has to say for an interface to get its address, for each network manager: pure, so that it can be
said where there is no node yet."""

import hashlib
import ipaddress
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from facts.network import DHCPCD, NETPLAN, NETWORKD, NETWORKMANAGER, File, Interface

MANAGED = "# Managed by the okome repository; changes made here are lost."
BEGIN, END = MANAGED, "# End of what the okome repository manages."


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


class AddressError(ValueError):
    """Why the address cannot be given, in one sentence for the operator."""


def wanted(address: str, gateway: str, dns: Sequence[str]) -> Wanted:
    """Check what the operator typed; AddressError says in one sentence what is wrong with it."""
    if isinstance(dns, str):
        raise AddressError(f"the name servers are a list of addresses, not {dns!r}.")
    if "/" not in address:
        raise AddressError(f"{address!r} has no prefix length: write it as {address}/24.")
    try:
        own = ipaddress.IPv4Interface(address)
        via = ipaddress.IPv4Address(gateway)
        servers = tuple(ipaddress.IPv4Address(server) for server in dns)
    except ValueError as error:
        raise AddressError(f"malformed address: {error}.") from None
    network = own.network
    if via not in network:
        raise AddressError(f"the gateway {via} is not in {network}, the network of {own}.")
    if network.prefixlen < 31:
        for which, special in (
            ("network", network.network_address),
            ("broadcast", network.broadcast_address),
        ):
            if special in (own.ip, via):
                raise AddressError(f"{special} is the {which} address of {network}, no node can have it.")
    if own.ip.is_loopback or own.ip.is_multicast or own.ip.is_unspecified:
        raise AddressError(f"{own.ip} is not an address that a node can have on a LAN.")
    if own.ip == via:
        raise AddressError(f"the address and the gateway are both {via}.")
    return Wanted(own, via, servers)


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
    """The file that gives this interface its address; AddressError where that cannot be."""
    interface, manager, netplan = now["interface"], now["manager"], now["netplan"]
    if interface is None:
        raise AddressError("no interface has a default route or a carrier: nothing to give the address to.")
    if now["wireless"] and manager != "dhcpcd":
        raise AddressError(f"{interface} is wireless: the static address is for a wired interface.")
    if netplan:
        for path, keys in now["definitions"].items():
            if taken := {"addresses", "gateway4", "routes"} & set(keys):
                raise AddressError(
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
        raise AddressError(
            f"{interface} is configured by ifupdown (/etc/network/interfaces), which is not supported:"
            " let NetworkManager or systemd-networkd manage it."
        )
    raise AddressError(f"no known network manager is in charge of {interface}.")


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
