#!/usr/bin/env python3
"""What is peculiar to a change of this node's address; the rest is guard.py's, beside it.

    address_guard.py arm < request, applied SHA256, confirm SHA256, abandon, revert [--boot]: as guard.py says

The change is always one whole file. Besides the timer and the boot unit a third thing leads back:
NetworkManager's own checkpoint.

A request has, besides sha256, seconds and files: manager, netplan (the id of its definition, or null),
interface, connection (the NetworkManager connection to bring up), previous (the one that is up now, its UUID),
previous_address, address ("192.168.86.19/24"), gateway.
"""

import contextlib
import ipaddress
import json
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from node import guard
else:
    # On a node this is a program, and guard.py stands beside it. Bytecode is not fsynced: after a power loss
    # it might be cut off, and the undo at boot with it.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(Path(__file__).parent))
    import guard

NM = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")

# RFC 5227 asks for three probes; its pauses (1 to 2 s each) are for links much slower than a wired LAN.
ARP_TRIES, ARP_PAUSE = 3, 0.5
# The timer rolls the checkpoint back and clears the mark; should it fail, NetworkManager still does its half.
CHECKPOINT_AFTER_TIMER = 5


# --- ARP ---------------------------------------------------------------------------------------------------


def arp_request(mac: bytes, sender: str, target: str) -> bytes:
    """The Ethernet frame that asks who has `target`; `sender` 0.0.0.0 makes it an RFC 5227 probe."""
    ethernet = b"\xff" * 6 + mac + struct.pack("!H", 0x0806)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return ethernet + header + mac + socket.inet_aton(sender) + b"\0" * 6 + socket.inet_aton(target)


def arp_holder(frame: bytes, own: bytes, target: str) -> str | None:
    """The MAC of the other machine that this frame shows to hold `target`, or to be probing for it."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x06" or frame[14:20] != b"\x00\x01\x08\x00\x06\x04":
        return None
    hardware, sender, asked = frame[22:28], frame[28:32], frame[38:42]
    wanted = socket.inet_aton(target)
    probing = sender == b"\0" * 4 and asked == wanted
    if hardware == own or not (sender == wanted or probing):
        return None
    return hardware.hex(":")


def ask_arp(interface: str, sender: str, target: str) -> str | None:
    """The MAC that answers for `target` on the LAN of `interface`; None after 1.5 s of silence."""
    own = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as link:
        link.bind((interface, 0x0806))
        for _ in range(ARP_TRIES):
            link.send(arp_request(own, sender, target))
            until = time.monotonic() + ARP_PAUSE
            while (left := until - time.monotonic()) > 0:
                link.settimeout(left)
                try:
                    frame = link.recv(128)
                except TimeoutError:
                    break
                if mac := arp_holder(frame, own, target):
                    return mac
    return None


# --- the change --------------------------------------------------------------------------------------------


class Address(guard.Guard):
    """The address of one interface."""

    def look(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Another machine may have it; and what netplan cannot read now would stop change and undo alike."""
        address = str(ipaddress.ip_interface(request["address"]).ip)
        held = address in (known["local"] for known in addresses(request["interface"]))
        if not held and (mac := ask_arp(request["interface"], "0.0.0.0", address)):  # noqa: S104 (a probe's sender)
            return {"result": "in use", "mac": mac}
        if request["netplan"]:
            guard.run("netplan", "generate")
        return None

    def secure(self, request: dict[str, Any]) -> None:
        """NetworkManager's checkpoint, which also knows connections that were never on disk."""
        # From here on the journal has what the manager says about it. A cursor, since the clock may jump.
        with contextlib.suppress(guard.GuardError, subprocess.TimeoutExpired):
            said = guard.run("journalctl", "--quiet", "--lines=0", "--show-cursor", seconds=5)
            request["cursor"] = said.strip().removeprefix("-- cursor: ")
            self.note(request)
        if not uses_checkpoint(request):
            return
        # All devices, flag 2: connections that are new at the rollback are deleted.
        later = str(int(request["seconds"]) + CHECKPOINT_AFTER_TIMER)
        answer = guard.run("busctl", "call", *NM, "CheckpointCreate", "aouu", "0", later, "2")
        self.note(request | {"checkpoint": answer.split('"')[1]})

    def apply(self, request: dict[str, Any]) -> None:
        activate(request, request["connection"])

    def prove(self, request: dict[str, Any]) -> None:
        # dhcpcd probes an address for 6 s before it takes it, also one that the interface had before.
        until = time.monotonic() + 10
        while not holds(request) and time.monotonic() < until:
            time.sleep(0.2)
        until = time.monotonic() + 5
        while wrong := unlike(request) or silence(request):
            if time.monotonic() > until:
                raise guard.GuardError(f"{wrong}{circumstances(request) if unlike(request) else ''}.")
            time.sleep(0.2)

    def testimony(self, request: dict[str, Any]) -> str:
        if not request["applied"]:
            return f"the change was not applied yet{circumstances(request)}"
        if wrong := unlike(request):
            return wrong + circumstances(request)
        return silence(request) or "all is as it was asked for, and the gateway answers"

    def keep(self, request: dict[str, Any]) -> None:
        if checkpoint := request.get("checkpoint"):
            guard.run("busctl", "call", *NM, "CheckpointDestroy", "o", checkpoint)

    def undo(self, request: dict[str, Any], *, boot: bool) -> None:
        checkpoint = None if boot else request.get("checkpoint")
        rolled_back = checkpoint and guard.attempt(
            "busctl", "call", *NM, "CheckpointRollback", "o", checkpoint
        )
        self.put_back(request)
        if boot:
            if request["netplan"]:
                guard.run("netplan", "generate")
        elif rolled_back:
            guard.run("nmcli", "connection", "reload")
        else:
            activate(request, request["previous"])
        # A rollback goes on by itself. Whoever finds the mark gone may trust what answers then.
        until = time.monotonic() + (0 if boot else 10)
        new = str(ipaddress.ip_interface(request["address"]).ip)
        while new != request["previous_address"] and time.monotonic() < until and holds(request):
            time.sleep(0.2)


def uses_checkpoint(request: dict[str, Any]) -> bool:
    """netplan's connections live in /run: there a rollback would write a second copy of them elsewhere."""
    return request["manager"] == "NetworkManager" and not request["netplan"]


def activate(request: dict[str, Any], connection: str | None) -> None:
    """Make the manager read its files again and configure the interface anew."""
    interface = request["interface"]
    if request["netplan"]:
        guard.run("netplan", "generate")
    if request["manager"] == "NetworkManager":
        guard.run("nmcli", "connection", "reload")
        up = ["nmcli", "--wait", "20", "connection", "up", str(connection), "ifname", interface]
        if not (connection and guard.attempt(*up)):
            guard.run("nmcli", "--wait", "20", "device", "connect", interface)
    elif request["manager"] == "systemd-networkd":
        # It configures anew what another file is for now. Asked for that once more at once, systemd 252 lost the
        # address that it had just been given; so only where nothing came of it.
        guard.run("networkctl", "reload")
        until = time.monotonic() + 15
        while not addresses(interface):
            if time.monotonic() > until:
                guard.run("networkctl", "reconfigure", interface)
                break
            time.sleep(0.2)
    elif request["manager"] == "dhcpcd":
        # `persistent`, Debian's default, leaves the old address behind when dhcpcd stops.
        guard.run("systemctl", "stop", "dhcpcd")
        guard.run("ip", "-4", "address", "flush", "dev", interface, "scope", "global")
        guard.run("systemctl", "start", "dhcpcd")
    else:
        raise guard.GuardError(f"unknown network manager {request['manager']}.")


def addresses(interface: str) -> list[dict[str, Any]]:
    """The IPv4 addresses of the interface, as `ip` tells them."""
    found = json.loads(guard.run("ip", "-json", "-4", "address", "show", "dev", interface))
    return [
        address for link in found for address in link.get("addr_info", []) if address["scope"] == "global"
    ]


def holds(request: dict[str, Any]) -> bool:
    """Whether the interface has the address that was asked for."""
    wanted = str(ipaddress.ip_interface(request["address"]))
    return wanted in [f"{known['local']}/{known['prefixlen']}" for known in addresses(request["interface"])]


def unlike(request: dict[str, Any]) -> str | None:
    """What of the interface is not as it was asked for, None if all of it is."""
    interface, wanted = request["interface"], ipaddress.ip_interface(request["address"])
    held = {f"{known['local']}/{known['prefixlen']}": known for known in addresses(interface)}
    if str(wanted) not in held:
        return f"{wanted} is not on {interface}"
    leased = [address for address, known in held.items() if known.get("dynamic")]
    if leased:
        return f"{interface} still has the leased address {leased[0]}"
    routes = json.loads(guard.run("ip", "-json", "-4", "route", "show", "default", "dev", interface))
    if request["gateway"] not in [route.get("gateway") for route in routes]:
        return f"the default route does not lead to {request['gateway']}"
    return None


def silence(request: dict[str, Any]) -> str | None:
    """That the gateway does not answer, if it does not."""
    own = str(ipaddress.ip_interface(request["address"]).ip)
    if ask_arp(request["interface"], own, request["gateway"]):
        return None
    return f"the gateway {request['gateway']} does not answer"


def circumstances(request: dict[str, Any]) -> str:
    """Whose file the interface is configured by, if not by ours, and the last words of its manager; in brackets."""
    found = []
    with contextlib.suppress(guard.GuardError, OSError, subprocess.TimeoutExpired, ValueError):
        file = configured_by(request["manager"], request["interface"])
        if file and not request["netplan"] and file not in [ours["path"] for ours in request["files"]]:
            found.append(f"{request['interface']} is configured by {file}")
    with contextlib.suppress(guard.GuardError, OSError, subprocess.TimeoutExpired):
        since = ["--after-cursor", request["cursor"]] if request.get("cursor") else ["--boot"]
        unit = f"--unit={request['manager']}"
        words = guard.run(
            "journalctl", "--quiet", "--output=cat", "--lines=200", *since, unit, seconds=5
        ).splitlines()
        if last := last_words(words):
            found.append(f"{request['manager']} said: {last}")
    return f" ({'; '.join(found)})" if found else ""


def configured_by(manager: str, interface: str) -> str | None:
    """The file that this manager has in effect for the interface, None where it does not say."""
    if manager == "NetworkManager":
        name, uuid = guard.run(
            "nmcli", "-g", "GENERAL.CONNECTION,GENERAL.CON-UUID", "device", "show", interface, seconds=5
        ).splitlines()[:2]
        files = guard.run("nmcli", "-t", "-f", "UUID,FILENAME", "connection", "show", "--active", seconds=5)
        for line in files.splitlines():
            if uuid and line.startswith(f"{uuid}:"):
                return line.partition(":")[2].replace("\\", "")
        return name or None
    if manager == "systemd-networkd":
        status = json.loads(guard.run("networkctl", "--json=short", "status", interface, seconds=5))
        return str(status["NetworkFile"]) if status.get("NetworkFile") else None
    return None


def last_words(lines: list[str]) -> str | None:
    """What is worth quoting of a manager's journal: its last complaint, else its last line."""
    # NetworkManager: "<warn>  [1795660642.1234] device (eth0): …"
    plain = [re.sub(r"^<\w+>\s+\[[\d.]+\]\s+", "", line) for line in lines]
    bad = [
        text
        for line, text in zip(lines, plain, strict=True)
        if line.startswith(("<warn>", "<err"))
        or re.search(r"(?i)fail|error|invalid|conflict|could not|unknown", text)
    ]
    return next(iter((bad or plain)[-1:]), None)


if __name__ == "__main__":
    sys.exit(guard.main(Address("address", __file__), sys.argv[1:]))
