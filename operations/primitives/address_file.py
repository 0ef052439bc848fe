"""What a file has to say for an interface to get its address, for each network manager: pure and with the
standard library alone, so that it can be said where there is no connection to a node.

What the profile in charge so far said beyond the address stays: IPv6, MTU, static routes, search domains, and
whatever else is not about the one IPv4 address, its gateway and the name servers. Our own file is read the same
way, so that rendering it again yields it again.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from facts.interface import DHCPCD, NETPLAN, NETWORKD, NETWORKMANAGER, RENDERERS, Interface
from operations.primitives.managed import MANAGED, MARK

BEGIN, END = MANAGED, "# End of what the okome repository manages."
# NetworkManager activates the profile with the highest priority at boot; this is the most there is.
PRIORITY = 999


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


Section = tuple[str, list[str]]


def ini(text: str) -> list[Section]:
    """The sections of a file in their order, each with its lines; without comments and empty lines."""
    found: list[Section] = []
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            found.append((line[1:-1], []))
        elif line and line[0] not in "#;" and found:
            found[-1][1].append(line)
    return found


def key_of(line: str) -> str:
    return line.partition("=")[0].strip()


def value_of(line: str) -> str:
    return line.partition("=")[2].strip()


def written(sections: Iterable[Section]) -> str:
    """The file, marked as ours."""
    return f"{MANAGED}\n" + "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in sections)


# NetworkManager's keyfile: the keys of a section that say which profile it is, or which IPv4 address it gives.
REPLACED = {
    "connection": r"id|uuid|type|interface-name|autoconnect.*|timestamp|permissions|multi-connect",
    "ipv4": r"method|address1|addresses\d*|gateway|dns|dhcp-.*|ignore-auto-.*|may-fail|never-default|required-timeout",
}
# Sections that mean the same in our profile. What is NetworkManager's own note is left behind.
KEPT = ("connection", "ethernet", "802-3-ethernet", "ethtool", "link", "ipv4", "ipv6", "proxy", "user")
NOTES = (".nmmeta", "match")


def networkmanager_file(want: Wanted, interface: str, before: str) -> str:
    """A profile that outranks all others on this interface; `before` is the text of the one in charge."""
    dns = "".join(f"{server};" for server in want.dns)
    ours = {
        "connection": [
            "id=okome-lan",
            "type=ethernet",
            f"interface-name={interface}",
            f"autoconnect-priority={PRIORITY}",
        ],
        "ipv4": ["method=manual", f"address1={want.address},{want.gateway}", f"dns={dns}"],
        "ipv6": [],
    }
    kept: dict[str, list[str]] = {}
    for name, lines in ini(before):
        if name in KEPT:
            kept.setdefault(name, []).extend(
                line for line in lines if not re.fullmatch(REPLACED.get(name, r"(?!)"), key_of(line))
            )
    if "ipv4" in kept:
        kept["ipv4"] = [line for line in kept["ipv4"] if not superseded(line, want)]
    kept["ipv6"] = kept.get("ipv6") or ["method=auto"]
    order = dict.fromkeys(["connection", *(name for name in kept if name not in ours), "ipv4", "ipv6"])
    sections = [(name, ours.get(name, []) + kept.get(name, [])) for name in order]
    return written([(name, lines) for name, lines in sections if lines])


def superseded(line: str, want: Wanted) -> bool:
    """Whether a line of [ipv4] is a default route, or gives the wanted address once more."""
    if re.fullmatch(r"route\d+", key_of(line)):
        return value_of(line).startswith("0.0.0.0/0")
    if re.fullmatch(r"address\d+", key_of(line)):
        return value_of(line).partition("/")[0] == str(want.address.ip)
    return False


def netplan_file(
    want: Wanted, identity: str, definitions: dict[str, dict[str, Any]], manager: str | None
) -> str:
    """The same definition again: netplan merges it over the earlier file, `match` and all. Lists it appends to
    what is there, so what is there is left out."""
    addresses, gateways, servers = merged(definitions)
    # Whatever renderer another file names for all: of those the last one counts.
    lines = [f"renderer: {RENDERERS[manager]}"] if manager else []
    lines.append("dhcp4: false")
    if str(want.address) not in addresses:
        lines.append(f'addresses: ["{want.address}"]')
    if str(want.gateway) not in gateways:
        lines.append(f"routes: [{{to: default, via: {want.gateway}}}]")
    missing = [str(server) for server in want.dns if str(server) not in servers]
    if missing or not servers:
        lines.append(f"nameservers: {{addresses: [{', '.join(missing)}]}}")
    if manager == "NetworkManager":
        lines.append(f'networkmanager: {{passthrough: {{connection.autoconnect-priority: "{PRIORITY}"}}}}')
    settings = "".join(f"\n      {line}" for line in lines)
    return f"""{MANAGED}
network:
  version: 2
  ethernets:
    {json.dumps(identity)}:{settings}
"""


def lasting(definitions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of netplan's files that are still there after a boot."""
    return {path: settings for path, settings in definitions.items() if not path.startswith("/run/")}


def merged(definitions: dict[str, dict[str, Any]]) -> tuple[list[str], list[str], list[str]]:
    """The addresses, default gateways and name servers (IPv4 alone) that netplan's other files give."""
    addresses: list[str] = []
    gateways: list[str] = []
    servers: list[str] = []
    for settings in definitions.values():
        # An address with options is a mapping of one.
        for one in settings.get("addresses") or []:
            addresses.extend(one if isinstance(one, dict) else [str(one)])
        gateways.extend(str(one) for one in [settings.get("gateway4")] if one)
        for route in settings.get("routes") or []:
            if str(route.get("to")) in ("default", "0.0.0.0/0") and ":" not in str(route.get("via")):
                gateways.append(str(route.get("via")))
        servers.extend(map(str, (settings.get("nameservers") or {}).get("addresses") or []))
    return tuple([one for one in found if ":" not in one] for found in (addresses, gateways, servers))  # type: ignore[return-value]


def networkd_file(want: Wanted, interface: str, before: str) -> str:
    """systemd-networkd takes the first file that matches: ours is 00-. `before` is the one in charge."""
    network = [
        f"Address={want.address}",
        f"Gateway={want.gateway}",
        *(f"DNS={server}" for server in want.dns),
    ]
    others: list[Section] = []
    replaced = False
    for name, lines in ini(before):
        if name == "Network":
            for line in lines:
                key, value = key_of(line), value_of(line)
                if key in ("Address", "Gateway", "DNS") and ":" not in value:
                    # The first is the address that gives way; further ones are somebody's choice.
                    if key == "Address" and replaced and value.partition("/")[0] != str(want.address.ip):
                        network.append(line)
                    replaced = replaced or key == "Address"
                elif key == "KeepConfiguration":
                    pass  # of a lease
                elif key == "DHCP":
                    network.extend(["DHCP=ipv6"] if value in ("yes", "true", "ipv6", "both") else [])
                else:
                    network.append(line)
        elif name == "Address" and not replaced and any(is_ipv4(line) for line in lines):
            replaced = True
        elif name == "Route" and is_default(lines):
            pass
        elif name not in ("Match", "DHCP", "DHCPv4"):
            others.append((name, lines))
    return written([("Match", [f"Name={interface}"]), ("Network", network), *others])


def is_ipv4(line: str) -> bool:
    return key_of(line) == "Address" and ":" not in value_of(line)


def is_default(lines: list[str]) -> bool:
    """Whether a [Route] is a default route of IPv4."""
    said = {key_of(line): value_of(line) for line in lines}
    return said.get("Destination", "0.0.0.0/0") == "0.0.0.0/0" and ":" not in said.get("Gateway", "")


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
    begin = (
        rf"{re.escape(MARK)}(?: \([^)\n]*\))?{re.escape(MANAGED.removeprefix(MARK))}"  # also an earlier one
    )
    return re.sub(rf"(?ms)^{begin}$.*?(?:^{re.escape(END)}$\n?|\Z)", "", text)


# --- which of them -----------------------------------------------------------------------------------------


def change(now: Interface, want: Wanted) -> Change:
    """The file that gives this interface its address; AddressError where no manager could use one."""
    interface, manager, netplan = now["interface"] or "", now["manager"], now["netplan"]
    if netplan:
        content = netplan_file(want, netplan, lasting(now["definitions"]), manager)
        return Change(NETPLAN, "600", content.encode(), now["connection"] and now["connection"]["uuid"])
    if manager == "NetworkManager":
        text = networkmanager_file(want, interface, now["profile"])
        return Change(NETWORKMANAGER, "600", text.encode(), "okome-lan")
    if manager == "systemd-networkd":
        return Change(NETWORKD, "644", networkd_file(want, interface, now["network"]).encode(), None)
    if manager == "dhcpcd":
        text = dhcpcd_file(want, interface, now["dhcpcd_conf"])
        mode = now["files"][DHCPCD]["mode"] if DHCPCD in now["files"] else "644"
        return Change(DHCPCD, mode, text.encode(errors="surrogateescape"), None)
    raise AddressError(f"no known network manager is in charge of {interface or 'an interface'}.")
