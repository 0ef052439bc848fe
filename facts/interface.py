"""The interface to the LAN, and how the answers about it are read: pure, with the standard library."""

import base64
import json
import re
from fnmatch import fnmatchcase
from typing import Any, TypedDict

from facts.ours import STATE
from facts.sections import sections

# The one file that is ours, for each way of configuring an interface.
NETWORKMANAGER = "/etc/NetworkManager/system-connections/okome-lan.nmconnection"
NETPLAN = "/etc/netplan/90-okome.yaml"
NETPLAN_HIDES = NETPLAN.replace("/etc/", "/run/")  # netplan would read this one instead
NETWORKD = "/etc/systemd/network/00-okome-lan.network"
DHCPCD = "/etc/dhcpcd.conf"
ADDRESS_GUARD = "/usr/local/lib/okome/address_guard.py"
GUARD_UNIT = "/etc/systemd/system/okome-address-revert.service"
ADDRESS_STATE = f"{STATE}/address"
PENDING = f"{ADDRESS_STATE}/pending"

# The unit of each network manager.
UNITS = {
    "NetworkManager": "NetworkManager.service",
    "systemd-networkd": "systemd-networkd.service",
    "dhcpcd": "dhcpcd.service",
    "ifupdown": "networking.service",
}
# What netplan calls those that it writes for.
RENDERERS = {"NetworkManager": "NetworkManager", "systemd-networkd": "networkd"}


class Address(TypedDict):
    """An IPv4 address: "192.168.86.19/24", and whether it is a lease that runs out."""

    address: str
    dynamic: bool


class Connection(TypedDict):
    """NetworkManager's active connection."""

    uuid: str
    name: str
    file: str


class Profile(TypedDict):
    """A profile that NetworkManager may activate on the interface by itself; the highest priority wins."""

    name: str
    file: str
    priority: int


class NetworkFile(TypedDict):
    """A file of systemd-networkd; `match` has the lines of its [Match] section, None where it has none."""

    path: str
    match: list[str] | None


class Definition(TypedDict):
    """A definition of netplan's: its id, its last file, and who is to configure what it fits."""

    id: str
    path: str
    renderer: str


class File(TypedDict):
    """A file as it is: mode as octal digits ("600"), owner by name, SHA-256 of its content."""

    mode: str
    owner: str
    sha256: str


class Interface(TypedDict):
    """What LanInterface finds."""

    interface: str | None
    # All that the node has.
    interfaces: list[str]
    # As `ip -details` calls it: "bridge", "vlan"; None for hardware.
    kind: str | None
    # The bridge or bond whose port it is.
    master: str | None
    mac: str | None
    wireless: bool
    # NetworkManager, systemd-networkd, dhcpcd or ifupdown.
    manager: str | None
    # All that configure the interface, or will after the next boot: managers, and further clients of DHCP by their
    # unit ("dhcpcd@eth0.service") or process ("dhclient (pid 812)").
    claimants: list[str]
    # The managers whose unit is in state failed.
    failed: list[str]
    # The id of netplan's definition, when netplan wrote the manager's configuration.
    netplan: str | None
    connection: Connection | None
    # The text of that connection's file, without sections that may hold secrets (only their heads).
    profile: str
    # NetworkManager's other profiles for the interface.
    rivals: list[Profile]
    # systemd-networkd's file for the interface and its drop-ins, as one text.
    network: str
    # systemd-networkd's files, of those with the same name the one that it reads.
    networks: list[NetworkFile]
    # What would change our own file: its drop-ins of systemd-networkd, the one that hides it from netplan.
    drop_ins: list[str]
    addresses: list[Address]
    gateway: str | None
    # Of the files above, those that exist.
    files: dict[str, File]
    # Whether the unit is enabled that undoes, at boot, what was never confirmed.
    guard_enabled: bool
    # The content of dhcpcd.conf, where dhcpcd is in charge (bytes as surrogateescape).
    dhcpcd_conf: str
    # netplan's other files that define `netplan`, in netplan's order: path -> what they set; of most settings the
    # name only. Those in /run are gone after a boot.
    definitions: dict[str, dict[str, Any]]
    # The change of the address that waits for its confirmation: the request to node/guard.py.
    pending: dict[str, Any] | None
    # netplan's definitions with another id that fit the interface, too.
    others: list[Definition]


def unescape(text: str) -> list[str]:
    """Split a line of `nmcli -t`: fields end at a colon, and a backslash protects the next character."""
    fields = re.findall(r"((?:\\.|[^\\:])*)(?::|$)", text)
    return [re.sub(r"\\(.)", r"\1", field) for field in fields]


def parse_networkmanager(device: list[str], connections: list[str]) -> tuple[bool, Connection | None]:
    """Whether NetworkManager manages the device (its state is above 10, unmanaged), and its connection."""
    state = int(device[0].split()[0]) if device else 0
    uuid = device[1] if len(device) > 1 else ""
    for line in connections:
        fields = unescape(line)
        if uuid and fields[0] == uuid:
            return state > 10, Connection(uuid=uuid, file=fields[1], name=fields[2])
    return state > 10, None


def parse_rivals(available: list[str], profiles: list[str], ours: str | None) -> list[Profile]:
    """The profiles that NetworkManager may activate by itself on the interface, without the UUID `ours` and
    our own file. `available` is its own judgement of which fit: `CONNECTIONS.AVAILABLE-CONNECTIONS[1]:UUID |
    NAME`."""
    fitting = {line.partition(":")[2].partition(" | ")[0] for line in available}
    rivals = []
    for line in profiles:
        uuid, autoconnect, priority, file, name = unescape(line)[:5]
        if uuid in fitting - {ours} and autoconnect == "yes" and file != NETWORKMANAGER:
            rivals.append(Profile(name=name, file=file, priority=int(priority)))
    return rivals


def parse_networkd(lines: list[str]) -> str | None:
    """The .network file, if systemd-networkd configures the interface, has or has failed to."""
    values = dict(json.loads(f"[{line.replace(':', ',', 1)}]") for line in lines)
    in_charge = values.get("AdministrativeState") in ("configured", "configuring", "failed")
    return values.get("NetworkFile") if in_charge else None


def parse_units(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Network manager -> ActiveState and UnitFileState, of `systemctl show`'s blocks."""
    states: dict[str, dict[str, str]] = {}
    block: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        if key in block:
            block = {}
        block[key] = value
        if "Id" in block:
            states[block["Id"]] = block
    return {
        manager: (states[unit].get("ActiveState", ""), states[unit].get("UnitFileState", ""))
        for manager, unit in UNITS.items()
        if unit in states
    }


def netplan_id(path: str) -> str | None:
    """The id of the definition behind a file that netplan wrote in /run."""
    found = re.fullmatch(
        r"/run/(?:NetworkManager/system-connections/netplan-(.+)\.nmconnection"
        r"|systemd/network/10-netplan-(.+)\.network)",
        path,
    )
    return (found[1] or found[2]) if found else None


def globs(pattern: str, name: str) -> bool:
    """Whether one of the patterns, which blanks separate, fits; `!` in front turns the answer round."""
    denied = pattern.startswith("!")
    return denied != any(fnmatchcase(name, one) for one in pattern.removeprefix("!").split())


def dhcpcd_takes(conf: str, interface: str) -> bool:
    """Whether dhcpcd.conf leaves the interface to dhcpcd."""
    for key, expected in (("denyinterfaces", False), ("allowinterfaces", True)):
        lists = re.findall(rf"(?m)^[ \t]*{key}[ \t]+(.*)$", conf)
        if lists and any(globs(one, interface) for one in lists) is not expected:
            return False
    return True


def networkd_matches(match: list[str] | None, interface: str, mac: str | None) -> bool:
    """Whether a [Match] section fits a wired interface. What it asks beyond the name, the address and the type
    is taken to be so: better a file too many is looked at than one too few."""
    if match is None:
        return False
    for line in match:
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "Name" and not globs(value, interface):
            return False
        if key in ("MACAddress", "PermanentMACAddress") and (mac or "") not in value.lower().split():
            return False
        if key == "Type" and not globs(value, "ether"):
            return False
    return True


def parse_others(
    lines: list[tuple[str, str | None, dict[str, Any]]], own: str | None, interface: str, mac: str | None
) -> list[Definition]:
    """What netplan defines for the interface under another id than `own`. Files of /run are gone after a boot."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    renderer = "networkd"
    for path, identity, settings in lines:
        if path.startswith("/run/"):
            continue
        if identity is None:
            renderer = settings["renderer"]
        elif identity != own:
            found[identity] = path, found.get(identity, ("", {}))[1] | settings
    return [
        Definition(id=identity, path=path, renderer=str(settings.get("renderer") or renderer))
        for identity, (path, settings) in found.items()
        if netplan_matches(identity, settings.get("match"), interface, mac)
    ]


def netplan_matches(identity: str, match: Any, interface: str, mac: str | None) -> bool:
    """Whether a definition fits; without a `match` its id is the interface's name. By the driver alone it is taken for
    another interface's."""
    if not isinstance(match, dict):
        return identity == interface
    right_address = str(match.get("macaddress", mac)).lower() == str(mac)
    return (
        match.keys() != {"driver"} and right_address and fnmatchcase(interface, str(match.get("name", "*")))
    )


def parse_clients(lines: list[str]) -> list[str]:
    """The clients of DHCP that are no manager's own, each once, of `UNIT PID NAME` lines."""
    found: dict[str, str] = {}
    for unit, pid, name in (line.split(" ", 2) for line in lines):
        if unit not in UNITS.values():
            found.setdefault(*((name, f"{name} (pid {pid})") if unit == "-" else (unit, unit)))
    return list(found.values())


def claimants(
    found: dict[str, bool], units: dict[str, tuple[str, str]], matched: bool, dhcpcd_conf: str, interface: str
) -> list[str]:
    """Who configures the interface (`found`), and who will when its unit starts at the next boot. `matched`
    says whether one of systemd-networkd's files fits."""
    would = {
        "NetworkManager": True,
        "systemd-networkd": matched,
        "dhcpcd": dhcpcd_takes(dhcpcd_conf, interface),
        "ifupdown": False,
    }
    return [
        manager
        for manager in UNITS
        if found[manager]
        or (
            would[manager]
            and units.get(manager, ("", ""))[0] != "active"
            and units.get(manager, ("", ""))[1] == "enabled"
        )
    ]


def parse(output: list[str]) -> Interface:
    """The whole of the fact's output."""
    said = sections(output)

    interface = next(iter(said.get("interface", [])), None)
    managed, connection = parse_networkmanager(said.get("networkmanager", []), said.get("connections", []))
    network_file = parse_networkd(said.get("networkd", []))
    units = parse_units(said.get("units", []))
    link: dict[str, Any] = next(iter(json.loads("".join(said.get("link", [])) or "[]")), {})
    links = json.loads("".join(said.get("address", [])) or "[]")
    routes = json.loads("".join(said.get("route", [])) or "[]")
    dhcpcd_conf = base64.b64decode("".join(said.get("dhcpcd", []))).decode(errors="surrogateescape")
    networks = [
        NetworkFile(path=name.partition(" ")[2], match=lines if "[Match]" in lines else None)
        for name, lines in said.items()
        if name.startswith("file-of-networkd ")
    ]
    mac = link.get("address")
    found = {
        "NetworkManager": managed,
        "systemd-networkd": bool(network_file),
        "dhcpcd": "dhcpcd" in said
        and units.get("dhcpcd", ("active", ""))[0] == "active"
        and dhcpcd_takes(dhcpcd_conf, interface or ""),
        "ifupdown": "ifupdown" in said,
    }
    manager = next((manager for manager in UNITS if found[manager]), None)
    netplan = None
    if managed and connection:
        netplan = netplan_id(connection["file"])
    elif manager == "systemd-networkd" and network_file:
        netplan = netplan_id(network_file)
    matched = any(networkd_matches(one["match"], interface or "", mac) for one in networks)
    defined = [
        (path, identity, settings) for path, identity, settings in map(json.loads, said.get("netplan", []))
    ]
    files = {}
    for name, lines in said.items():
        kind, _, path = name.partition(" ")
        if kind == "file":
            mode, owner = lines[0].split()
            files[path] = File(mode=mode, owner=owner, sha256=lines[1].split()[0])
    return Interface(
        interface=interface,
        interfaces=said.get("interfaces", []),
        kind=link.get("linkinfo", {}).get("info_kind"),
        master=link.get("master"),
        mac=mac,
        wireless="wireless" in said,
        manager=manager,
        claimants=claimants(found, units, matched, dhcpcd_conf, interface or "")
        + parse_clients(said.get("clients", [])),
        failed=[manager for manager, (active, _) in units.items() if active == "failed"],
        netplan=netplan,
        connection=connection,
        profile="\n".join(said.get("profile", [])),
        rivals=parse_rivals(
            said.get("available", []), said.get("profiles", []), connection and connection["uuid"]
        ),
        network="\n".join(said.get("network", [])) if manager == "systemd-networkd" else "",
        networks=networks,
        drop_ins=[name.partition(" ")[2] for name in said if name.startswith("drop-in ")],
        addresses=[
            Address(address=f"{one['local']}/{one['prefixlen']}", dynamic=one.get("dynamic", False))
            for each in links
            for one in each.get("addr_info", [])
            if one["scope"] == "global"
        ],
        gateway=next((route.get("gateway") for route in routes if route.get("dev") == interface), None),
        files=files,
        guard_enabled="guard-enabled" in said,
        dhcpcd_conf=dhcpcd_conf if manager == "dhcpcd" else "",
        definitions={
            path: settings
            for path, identity, settings in defined
            if netplan and identity == netplan and path != NETPLAN
        },
        pending=json.loads("".join(said["pending"])) if "pending" in said else None,
        # What netplan has for a manager that may not start is nobody's.
        others=[
            one
            for one in parse_others(defined, netplan, interface or "", mac)
            if not any(
                RENDERERS.get(manager) == one["renderer"] and file.startswith("masked")
                for manager, (_, file) in units.items()
            )
        ],
    )
