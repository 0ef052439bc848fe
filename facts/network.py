"""Who owns the default interface, and what it is configured with."""

import base64
import json
import re
from typing import Any, TypedDict

from facts.answer import Answer

# The one file that is ours, for each way of configuring an interface.
NETWORKMANAGER = "/etc/NetworkManager/system-connections/okome-lan.nmconnection"
NETPLAN = "/etc/netplan/90-okome.yaml"
NETWORKD = "/etc/systemd/network/00-okome-lan.network"
DHCPCD = "/etc/dhcpcd.conf"
GUARD = "/usr/local/lib/okome/address_guard.py"
GUARD_LIBRARY = "/usr/local/lib/okome/guard.py"
GUARD_UNIT = "/etc/systemd/system/okome-address-revert.service"
STATE = "/var/lib/okome/address"
PENDING = f"{STATE}/pending"


class Address(TypedDict):
    """An IPv4 address: "192.168.86.19/24", and whether it is a lease that runs out."""

    address: str
    dynamic: bool


class Connection(TypedDict):
    """NetworkManager's active connection."""

    uuid: str
    name: str
    file: str


class File(TypedDict):
    """A file as it is: mode as octal digits ("600"), owner by name, SHA-256 of its content."""

    mode: str
    owner: str
    sha256: str


class Interface(TypedDict):
    """What DefaultInterface finds."""

    interface: str | None
    wireless: bool
    # NetworkManager, systemd-networkd, dhcpcd or ifupdown.
    manager: str | None
    # The id of netplan's definition, when netplan wrote the manager's configuration.
    netplan: str | None
    connection: Connection | None
    addresses: list[Address]
    gateway: str | None
    # Of the files above, those that exist.
    files: dict[str, File]
    # Whether the unit is enabled that undoes, at boot, what was never confirmed.
    guard_enabled: bool
    # The content of dhcpcd.conf, where dhcpcd is in charge (bytes as surrogateescape).
    dhcpcd_conf: str
    # netplan's other files that define `netplan`: path -> keys of the definition.
    definitions: dict[str, list[str]]
    # The change of the address that waits for its confirmation: the request to node/guard.py.
    pending: dict[str, Any] | None


# netplan's files hold Wi-Fi passwords, so only the names of the settings leave the node: one line for each
# file and definition, ["/etc/netplan/50-lan.yaml", "lan", "addresses", "match"]. netplan brings python3-yaml.
_NETPLAN_KEYS = """
import glob, json, yaml
for path in sorted(glob.glob("/lib/netplan/*.yaml") + glob.glob("/etc/netplan/*.yaml")):
    with open(path) as file:
        network = (yaml.safe_load(file) or {}).get("network") or {}
    for kind in network.values():
        for identity, settings in kind.items() if isinstance(kind, dict) else ():
            print(json.dumps([path, identity, *sorted(settings or {})]))
"""

# The interface of the default route; without one, the first that has a carrier. One `::section` per question.
_COMMAND = rf"""
route=$(ip -json -4 route show default)
interface=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
if [ -z "$interface" ]; then
  for path in /sys/class/net/*; do
    [ "$(basename "$path")" = lo ] || [ "$(cat "$path/carrier" 2>/dev/null)" != 1 ] && continue
    interface=$(basename "$path"); break
  done
fi
echo ::interface; echo "$interface"
! test -e "/sys/class/net/$interface/wireless" || echo ::wireless
echo ::route; echo "$route"
echo ::address; ip -json -4 address show dev "$interface"
if device=$(nmcli -g GENERAL.STATE,GENERAL.CON-UUID device show "$interface" 2>/dev/null); then
  echo ::networkmanager; echo "$device"
  echo ::connections; nmcli -t -f UUID,FILENAME,NAME connection show --active
fi
echo ::networkd
networkctl --json=short status "$interface" 2>/dev/null |
  grep -oE '"(AdministrativeState|NetworkFile)":"[^"]*"'
if systemctl is-active -q dhcpcd && dhcpcd -U "$interface" >/dev/null 2>&1; then
  echo ::dhcpcd; base64 -w 0 {DHCPCD}; echo
fi
if command -v ifquery >/dev/null && ifquery --state "$interface" >/dev/null 2>&1; then echo ::ifupdown; fi
if [ -n "$(ls /lib/netplan/*.yaml /etc/netplan/*.yaml 2>/dev/null)" ]; then
  echo ::netplan; python3 - <<'END'
{_NETPLAN_KEYS}
END
fi
for path in {NETWORKMANAGER} {NETPLAN} {NETWORKD} {DHCPCD} {GUARD_LIBRARY} {GUARD} {GUARD_UNIT}; do
  ! test -e "$path" || {{ echo "::file $path"; stat -c '%a %U' "$path"; sha256sum <"$path"; }}
done
! test -e /etc/systemd/system/multi-user.target.wants/{GUARD_UNIT.rpartition("/")[2]} || echo ::guard-enabled
! test -e {PENDING} || {{ echo ::pending; cat {PENDING}; echo; }}
"""


def sections(output: list[str]) -> dict[str, list[str]]:
    """Split `::name` marked output into the lines of each section."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output:
        if line.startswith("::"):
            lines = found.setdefault(line[2:], [])
        elif line:
            lines.append(line)
    return found


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


def parse_networkd(lines: list[str]) -> str | None:
    """The .network file, if systemd-networkd configures the interface."""
    values = dict(json.loads(f"[{line.replace(':', ',', 1)}]") for line in lines)
    return (
        values.get("NetworkFile")
        if values.get("AdministrativeState") in ("configured", "configuring")
        else None
    )


def netplan_id(path: str) -> str | None:
    """The id of the definition behind a file that netplan wrote in /run."""
    found = re.fullmatch(
        r"/run/(?:NetworkManager/system-connections/netplan-(.+)\.nmconnection"
        r"|systemd/network/10-netplan-(.+)\.network)",
        path,
    )
    return (found[1] or found[2]) if found else None


def parse(output: list[str]) -> Interface:
    """The whole of the fact's output."""
    said = sections(output)

    interface = next(iter(said.get("interface", [])), None)
    managed, connection = parse_networkmanager(said.get("networkmanager", []), said.get("connections", []))
    network_file = parse_networkd(said.get("networkd", []))
    manager = netplan = None
    if managed:
        manager, netplan = "NetworkManager", netplan_id(connection["file"]) if connection else None
    elif network_file:
        manager, netplan = "systemd-networkd", netplan_id(network_file)
    elif "dhcpcd" in said:
        manager = "dhcpcd"
    elif "ifupdown" in said:
        manager = "ifupdown"
    files = {}
    for name, lines in said.items():
        kind, _, path = name.partition(" ")
        if kind == "file":
            mode, owner = lines[0].split()
            files[path] = File(mode=mode, owner=owner, sha256=lines[1].split()[0])
    routes = json.loads("".join(said.get("route", [])) or "[]")
    links = json.loads("".join(said.get("address", [])) or "[]")
    return Interface(
        interface=interface,
        wireless="wireless" in said,
        manager=manager,
        netplan=netplan,
        connection=connection,
        addresses=[
            Address(address=f"{one['local']}/{one['prefixlen']}", dynamic=one.get("dynamic", False))
            for link in links
            for one in link.get("addr_info", [])
            if one["scope"] == "global"
        ],
        gateway=next((route.get("gateway") for route in routes if route.get("dev") == interface), None),
        files=files,
        guard_enabled="guard-enabled" in said,
        dhcpcd_conf=base64.b64decode("".join(said.get("dhcpcd", []))).decode(errors="surrogateescape"),
        definitions={
            path: keys
            for path, identity, *keys in map(json.loads, said.get("netplan", []))
            if identity == netplan and path != NETPLAN
        },
        pending=json.loads("".join(said["pending"])) if "pending" in said else None,
    )


class DefaultInterface(Answer[Interface]):
    """
    The interface that carries the default route, who is in charge of it, and what it is configured with.

    Decided by who answers for the interface, in the order NetworkManager, systemd-networkd, dhcpcd, ifupdown;
    not by which services run or which files exist. Needs root: the files are not world-readable.
    """

    def command(self) -> str:
        return _COMMAND

    def read(self, output: list[str]) -> Interface:
        return parse(output)
