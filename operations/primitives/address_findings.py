"""What stands against a static address, known by looking: all of it, one sentence each with what to do."""

import re
from typing import Any

from facts.interface import (
    NETPLAN,
    NETPLAN_HIDES,
    NETWORKD,
    RENDERERS,
    UNITS,
    File,
    Interface,
    netplan_id,
    networkd_matches,
)
from operations.primitives.address_file import (
    KEPT,
    NOTES,
    PRIORITY,
    Change,
    Wanted,
    ini,
    is_default,
    is_ipv4,
    key_of,
    lasting,
    merged,
    value_of,
)

# What `ip -details` calls the links that carry an address as hardware does: those of a container.
LIKE_HARDWARE = (None, "veth", "macvlan", "ipvlan")
# What in a later file of netplan may take our definition to another interface, to another manager or out of effect.
OVERRULING = ("activation-mode", "match", "networkmanager", "renderer", "set-name")


def findings(now: Interface, want: Wanted, given: str = "") -> list[str]:
    """One sentence for each reason why the address can't be given, or would be gone after the next boot; none
    while a change waits for its confirmation: then nothing may be what it seems. `given` is `lan_interface`."""
    if now["pending"]:
        return []
    interface = now["interface"]
    if not interface:
        return ["no interface carries this session or a default route: name the LAN's in lan_interface."]
    if given and given not in now["interfaces"]:
        return [f"lan_interface is {given!r}, and the node has {', '.join(now['interfaces'])}."]
    elsewhere = "if the LAN is on another interface, name it in lan_interface"
    if interface == "lo" or now["kind"] not in LIKE_HARDWARE:
        return [
            f"{interface} is a {now['kind'] or 'loopback'}, and the static address is for a wired interface"
            f" itself: give it the address where the {now['kind'] or 'loopback'} is configured; {elsewhere}."
        ]
    if now["master"]:
        return [
            f"{interface} is a port of {now['master']}, and a port has no address of its own: take it out of"
            f" there; {elsewhere}."
        ]
    if now["wireless"]:
        return [f"{interface} is wireless, and the static address is for a wired interface; {elsewhere}."]
    found = []
    if len(now["claimants"]) > 1:
        others = [one for one in now["claimants"] if one != now["manager"]]
        processes = [one for one in others if one.endswith(")")]
        units = " ".join(UNITS.get(one, one) for one in others if one not in processes)
        ways = [f"`systemctl disable --now {units}`"] if units else []
        ways += [f"ending {one} and what starts it" for one in processes]
        found.append(
            f"{' and '.join(now['claimants'])} both configure {interface}, or will after the next boot, and would"
            f" undo each other's work: keep one, for instance by {' and '.join(ways)}."
        )
    manager = now["manager"]
    if manager is None:
        found.append(unmanaged(now, interface))
    elif manager == "ifupdown":
        found.append(
            f"{interface} is configured by ifupdown (/etc/network/interfaces), which is not supported:"
            " let NetworkManager or systemd-networkd manage it."
        )
    if now["netplan"]:
        found += contradictions(now, want, now["netplan"])
        found += overruled(now, now["netplan"])
    found += beside(now, interface)
    if manager == "NetworkManager":
        found += outranked(now, interface)
        found += [] if now["netplan"] else lost(now)
    elif manager == "systemd-networkd":
        found += preceded(now, interface)
    return found


def unmanaged(now: Interface, interface: str) -> str:
    """Nobody is in charge; a manager that failed would be."""
    for manager in now["failed"]:
        return (
            f"nobody manages {interface}, and {manager} has failed: `systemctl status {UNITS[manager]}` says why;"
            f" mend it, or `systemctl restart {UNITS[manager]}`."
        )
    return f"no known network manager is in charge of {interface}: let NetworkManager or systemd-networkd manage it."


def contradictions(now: Interface, want: Wanted, identity: str) -> list[str]:
    """netplan appends to lists: what is there and not wanted would stay."""
    found = []
    for path, settings in now["definitions"].items():
        addresses, gateways, servers = merged({path: settings})
        if [one for one in addresses if one != str(want.address)]:
            found.append(
                f"{path} already sets addresses for {identity}, and netplan would add to that instead of"
                " replacing it: remove it there first."
            )
        if [one for one in gateways if one != str(want.gateway)]:
            found.append(
                f"{path} already sets routes for {identity}, a default route among them, and netplan would add"
                " to that instead of replacing it: remove it there first."
            )
        if foreign := [one for one in servers if one not in map(str, want.dns)]:
            found.append(
                f"{path} already sets the name server {foreign[0]} for {identity}, and netplan would add to that"
                " instead of replacing it: remove it there first, or name it in lan_dns."
            )
    return found


def overruled(now: Interface, identity: str) -> list[str]:
    """netplan merges its files by name, whatever their folder: of what is no list the last one counts."""
    ours = NETPLAN.rpartition("/")[2]
    found = [
        f"netplan reads {path} instead of our file of that name: remove it."
        for path in now["drop_ins"]
        if path == NETPLAN_HIDES
    ]
    for path, settings in now["definitions"].items():
        said = ["dhcp4: true"] if leases(settings) else []
        said += [setting for setting in OVERRULING if setting in settings]
        if said and path.rpartition("/")[2] > ours:
            found.append(
                f"netplan reads {path} after ours ({ours}), and it sets {' and '.join(said)} for {identity}:"
                " remove that there, or give the file a name that sorts before."
            )
    return found


def beside(now: Interface, interface: str) -> list[str]:
    """Another definition of netplan's for the interface. One for NetworkManager loses by its priority, whatever its
    id is; of those for systemd-networkd the first by name is taken, and netplan has it started for any."""
    found = []
    for one in now["others"]:
        first = f"{one['id']}.network" < f"{now['netplan']}.network" if now["netplan"] else False
        wins = now["manager"] == "NetworkManager" or (now["manager"] == "systemd-networkd" and first)
        if wins and one["renderer"] == RENDERERS["systemd-networkd"]:
            found.append(
                f"netplan's definition {one['id']} ({one['path']}) is for {interface}, too, and systemd-networkd takes"
                " it at the next boot: remove it there."
            )
    return found


def leases(settings: dict[str, Any]) -> bool:
    """Whether the definition asks for a lease, in one of netplan's words for it."""
    return str(settings.get("dhcp4")).lower() in ("true", "yes", "on", "y")


def outranked(now: Interface, interface: str) -> list[str]:
    """NetworkManager activates at boot what has the highest priority, whatever is active now."""
    return [
        f"NetworkManager's profile {rival['name']} ({rival['file'] or 'in memory'}) is for {interface}, too, and"
        f" with priority {rival['priority']} may take it at the next boot: `nmcli connection modify"
        f" '{rival['name']}' connection.autoconnect no`, or delete it."
        for rival in now["rivals"]
        if rival["priority"] >= PRIORITY
    ]


def lost(now: Interface) -> list[str]:
    """Of the profile in charge, what our own could not say."""
    connection = now["connection"]
    foreign = [
        name for name, lines in ini(now["profile"]) if lines and name not in KEPT + NOTES
    ] + re.findall(r"(?m)^\[((?:802-1x|wifi-security|vpn-secrets|wireguard)[^]]*)\]$", now["profile"])
    if not connection or not foreign:
        return []
    named = " and ".join(f"[{name}]" for name in dict.fromkeys(foreign))
    return [
        f"NetworkManager's profile {connection['name']} ({connection['file']}) has {named}, which the static"
        " address cannot keep: give that profile itself the address, or remove it there."
    ]


def preceded(now: Interface, interface: str) -> list[str]:
    """systemd-networkd takes the first file by name that fits, wherever it is; drop-ins come on top."""
    ours = f"10-netplan-{now['netplan']}.network" if now["netplan"] else NETWORKD.rpartition("/")[2]
    found = [
        f"systemd-networkd reads {one['path']} before ours ({ours}), and it fits {interface}, too: remove it, or"
        " give it a name that sorts later."
        for one in now["networks"]
        if netplan_id(one["path"]) not in [other["id"] for other in now["others"]]  # said above
        and one["path"].rpartition("/")[2] < ours
        and networkd_matches(one["match"], interface, now["mac"])
    ]
    return found + [
        f"{path} would change what our file says: remove it."
        for path in now["drop_ins"]
        if path != NETPLAN_HIDES
    ]


# --- whether it is there -----------------------------------------------------------------------------------


def settled(now: Interface, want: Wanted, target: Change) -> bool:
    """Whether all is there already: file, address, route, and nothing left of a lease or an open change."""
    addresses = {one["address"]: one["dynamic"] for one in now["addresses"]}
    return (
        (
            now["files"].get(target.path) == File(mode=target.mode, owner="root", sha256=target.sha256)
            or right_as_it_is(now, want)
        )
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


def right_as_it_is(now: Interface, want: Wanted) -> bool:
    """Whether somebody else's netplan file gives exactly this address: what netplan made of it says so, the
    name servers too, if it names any."""
    if not now["netplan"] or NETPLAN in now["files"]:
        return False
    # What netplan made of its files is older than they are, and what it read in /run is gone after a boot.
    said_last = [one for one in now["definitions"].values() if one.get("dhcp4") is not None][-1:]
    if any(map(leases, said_last)) or lasting(now["definitions"]) != now["definitions"]:
        return False
    addresses, gateways, servers = said(now)
    own = re.findall(r"(?m)^autoconnect-priority=(-?\d+)$", now["profile"]) or ["0"]
    if any(rival["priority"] >= int(own[0]) for rival in now["rivals"]):
        return False  # with a file of ours it comes first
    dns = {str(server) for server in want.dns}
    return (
        addresses == [str(want.address)]
        and gateways == [str(want.gateway)]
        and (not servers or set(servers) == dns)
    )


def said(now: Interface) -> tuple[list[str], list[str], list[str]]:
    """The IPv4 addresses, default gateways and name servers in the file of the manager in charge."""
    addresses: list[str] = []
    gateways: list[str] = []
    servers: list[str] = []
    for name, lines in ini(now["network"] or now["profile"]):
        for line in lines:
            key, value = key_of(line), value_of(line)
            if name in ("Network", "Address") and is_ipv4(line):
                addresses.append(value)
            elif name == "Network" and key == "Gateway" and ":" not in value:
                gateways.append(value)
            elif name == "Network" and key == "DNS" and ":" not in value:
                servers.append(value)
            elif name == "ipv4" and re.fullmatch(r"address\d+", key):
                address, _, gateway = value.partition(",")
                addresses.append(address)
                gateways += [gateway] if gateway else []
            elif name == "ipv4" and re.fullmatch(r"route\d+", key) and value.startswith("0.0.0.0/0,"):
                gateways.append(value.split(",")[1])
            elif name == "ipv4" and key == "gateway":
                gateways.append(value)
            elif name == "ipv4" and key == "dns":
                servers += [server for server in value.split(";") if server]
        if name == "Route" and is_default(lines):
            gateways += [value_of(line) for line in lines if key_of(line) == "Gateway"]
    return addresses, gateways, servers
