"""The LAN: a network namespace with the production gateway's address, DHCP, DNS and a way out for apt."""

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import inventory
from group_data import all as every_node
from group_data import frontends
from lab import LabError, machine

GATEWAY = every_node.lan_gateway
NETWORK = ipaddress.IPv4Network(f"{GATEWAY}/{every_node.lan_prefix_length}", strict=False)
BRIDGE = "br0"
# What only one lab at a time changes, and how its table's comment begins.
FORWARDING, FOUND = "okome-forwarding", "ip_forward was "
# Of the network namespace that the lab's uplink is in: usually the machine's.
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def leases() -> list[tuple[str, str]]:
    """What a new Pi gets before its first deploy, as runs (first, last): from just above the middle of the network
    (.132 of a /24) on a quarter of it, without the addresses that somebody has."""
    taken = {host["address"] for _, host in inventory.frontends + inventory.backends}
    taken |= {GATEWAY, frontends.orchestrator.rpartition(":")[0]}
    size, runs = NETWORK.num_addresses, list[tuple[str, str]]()
    after_a_gap = True
    for number in range(size * 33 // 64, size * 50 // 64):
        address = str(NETWORK[number])
        if address not in taken:
            runs.append((address if after_a_gap else runs.pop()[0], address))
        after_a_gap = address in taken
    return runs


def exists() -> bool:
    """Whether the namespace is there."""
    return Path("/run/netns", machine.namespace()).exists()


def up() -> bool:
    """Make the LAN, or complete one that a run left half made; whether there was something to do."""
    space = machine.namespace()
    if (machine.state_dir() / "lan").exists() and exists() and _dnsmasq_runs():
        return False
    down()
    machine.state_dir().mkdir(parents=True, exist_ok=True)
    machine.run(["ip", "netns", "add", space])
    for command in (
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"addr add {GATEWAY}/{NETWORK.prefixlen} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ):
        machine.run(["ip", "-n", space, *command.split()])
    number = _add_uplink()
    outside, inside = f"10.213.{number}.1", f"10.213.{number}.2"
    machine.run(["ip", "addr", "add", f"{outside}/30", "dev", f"okome-u{number}"])
    machine.run(["ip", "link", "set", f"okome-u{number}", "up"])
    machine.run(["ip", "-n", space, "addr", "add", f"{inside}/30", "dev", "uplink"])
    machine.run(["ip", "-n", space, "link", "set", "uplink", "up"])
    machine.run(["ip", "-n", space, "route", "add", "default", "via", outside])
    machine.run(machine.in_lan("sysctl", "-qw", "net.ipv4.ip_forward=1"))
    masquerade = """
table ip {table} {{
  {comment}
  chain out {{
    type nat hook postrouting priority srcnat;
    {match} masquerade;
  }}
}}
"""
    # A packet for the LAN that found no one there must not leave by the uplink.
    stay = f"""
table ip okome {{
  chain stay {{
    type filter hook forward priority 0;
    oifname uplink ip daddr {NETWORK} drop;
  }}
}}
"""
    with machine.alone(FORWARDING):
        found = next(iter(_tables().values()), IP_FORWARD.read_text().strip())
        outer = {"table": _table(), "match": f"ip saddr {outside}/30", "comment": f'comment "{FOUND}{found}"'}
        machine.run(["nft", "-f", "-"], stdin=masquerade.format(**outer))
        IP_FORWARD.write_text("1")
    inner = masquerade.format(table="okome", match="oifname uplink", comment="") + stay
    machine.run(machine.in_lan("nft", "-f", "-"), stdin=inner)
    _start_dnsmasq(outside)
    (machine.state_dir() / "lan").touch()
    return True


def has_way_out(sources: Path) -> bool:
    """Whether the first host of a sources.list can be reached from the LAN, as apt on its nodes will want to."""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 80), 5)"
    found = re.search(r"https?://([^/:\s]+)", sources.read_text())
    try:
        mirror = socket.gethostbyname(found[1] if found else "")
        machine.run(machine.in_lan(sys.executable, "-c", connect, mirror), timeout=15)
    except (LabError, OSError):
        return False
    return True


def down() -> None:
    """Remove every trace of the LAN; whatever of it exists."""
    uplink = machine.state_dir() / "uplink"
    _stop_relay()
    if exists():
        pids = machine.run(["ip", "netns", "pids", machine.namespace()]).split()
        for pid in map(int, pids):
            if pid not in _ancestors():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _wait_until_gone(pids)
        machine.run(["ip", "netns", "del", machine.namespace()])
    if uplink.exists() and Path("/sys/class/net", uplink.read_text()).exists():
        machine.run(["ip", "link", "del", uplink.read_text()])
    close_way_out(_table())
    for left in (machine.state_dir() / "lan", uplink):
        left.unlink(missing_ok=True)


def close_way_out(table: str) -> None:
    """Remove a lab's table, if it is there; with the last one the machine's ip_forward is again what it was."""
    with machine.alone(FORWARDING):
        tables = _tables()
        if tables.keys() == {table}:
            IP_FORWARD.write_text(tables[table])
        if table in tables:
            machine.run(["nft", "delete", "table", "ip", table])


def _tables() -> dict[str, str]:
    """What each lab has on this network → ip_forward as the first of them found it. Labs in mount namespaces of
    their own do not see each other's folders, but they do see each other's tables, and need forwarding alike."""
    rules = machine.run(["nft", "list", "ruleset", "ip"])
    return dict(re.findall(rf'^table ip (okome_\w+) {{\n\s*comment "{FOUND}([01])"', rules, re.MULTILINE))


def _table() -> str:
    return f"okome_{machine.name()}"


def _add_uplink() -> int:
    """A veth pair to the machine's namespace, under the first free number: its name and its network."""
    taken = {
        address["local"]
        for link in json.loads(machine.run(["ip", "-json", "addr"]))
        for address in link["addr_info"]
    }
    for number in range(86, 256):
        link = f"okome-u{number}"
        if f"10.213.{number}.1" in taken or Path("/sys/class/net", link).exists():
            continue
        # Written first: it is what `down` needs. Another lab may take the number between look and leap.
        (machine.state_dir() / "uplink").write_text(link)
        with contextlib.suppress(LabError):
            machine.run(
                [
                    "ip",
                    "link",
                    "add",
                    link,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "uplink",
                    "netns",
                    machine.namespace(),
                ]
            )
            return number
        (machine.state_dir() / "uplink").unlink()
    raise LabError("no free network 10.213.86.0/30 … 10.213.255.0/30 for the lab's way out.")


def _start_dnsmasq(outside: str) -> None:
    """DHCP and DNS on the LAN. Names are asked of a relay at the machine's end of the uplink, and that asks
    whomever the machine asks: a stub on loopback, or a router that has the LAN's own addresses."""
    state = machine.state_dir()
    common = ("dnsmasq", "--conf-file=/dev/null", "--user=root", "--bind-interfaces", "--no-hosts")
    machine.run([*common, f"--listen-address={outside}", f"--pid-file={state / 'relay.pid'}"])
    machine.run(
        machine.in_lan(
            *common,
            *(f"--interface={BRIDGE}", "--except-interface=lo", "--no-resolv", f"--server={outside}"),
            *(f"--dhcp-range={first},{last},{NETWORK.netmask},1h" for first, last in leases()),
            *("--dhcp-sequential-ip", "--dhcp-authoritative"),
            *(f"--dhcp-leasefile={state / 'leases'}", f"--pid-file={state / 'dnsmasq.pid'}"),
        )
    )


def _stop_relay() -> None:
    """It is in the machine's own namespace, so it goes by its number, and only if that is still it."""
    file = machine.state_dir() / "relay.pid"
    pid = file.read_text().strip() if file.exists() else ""
    if pid and str(file).encode() in _command_line(pid):
        os.kill(int(pid), signal.SIGTERM)
        _wait_until_gone([pid])
    file.unlink(missing_ok=True)


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _dnsmasq_runs() -> bool:
    pid = machine.state_dir() / "dnsmasq.pid"
    return (
        pid.exists()
        and pid.read_text().strip() in machine.run(["ip", "netns", "pids", machine.namespace()]).split()
    )


def _ancestors() -> set[int]:
    pid, found = os.getpid(), set()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _wait_until_gone(pids: list[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    own = _ancestors()
    while any(int(pid) not in own and not machine.ended(int(pid)) for pid in pids):
        if time.monotonic() > deadline:
            raise LabError(f"processes of the lab do not end: {' '.join(pids)}.")
        time.sleep(0.02)
