#!/usr/bin/env python3
"""Changes this node's network configuration with an undo; runs here as root, Debian's Python alone.

    address_guard.py arm < request    remember the old file, arm the undo, apply detached from this session
    address_guard.py confirm SHA256   keep the new file; from the control machine, over the new address
    address_guard.py abandon          run the undo now, detached from this session
    address_guard.py revert [--boot]  the undo itself: what its timer and its boot unit call

The change is always one whole file, put in place by one rename. Until it is confirmed, STATE/pending says
so, and three things lead back: a timer, NetworkManager's own checkpoint, and, after a power loss, a unit that
puts the old file back before any network manager starts.

A request is JSON: manager, netplan (the id of its definition, or null), interface, connection (the
NetworkManager connection to bring up), previous (the one that is up now, its UUID), previous_address, path,
mode, content (base64), was (SHA-256 of the file as the request's author saw it, null if absent), address
("192.168.86.19/24"), gateway, seconds (until the undo).
"""

import base64
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/okome/address")
PENDING, CONFIRMED, FAILED, LOCK = STATE / "pending", STATE / "confirmed", STATE / "failed", STATE / "lock"
OLD, NEW = STATE / "old", STATE / "new"
UNDO, SWITCH = "okome-address-undo", "okome-address-switch"
NM = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")

# RFC 5227 asks for three probes; its pauses (1 to 2 s each) are for links much slower than a wired LAN.
ARP_TRIES, ARP_PAUSE = 3, 0.5
# The timer rolls the checkpoint back and clears the mark; should it fail, NetworkManager still does its half.
CHECKPOINT_AFTER_TIMER = 5
# A network manager may refuse just now, and not in a moment.
RETRY = ("--property=Restart=on-failure", "--property=RestartSec=5")
NOT_YET = 75  # sysexits: EX_TEMPFAIL


class GuardError(Exception):
    """What went wrong, in one sentence for the operator."""


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


# --- files that survive a power cut ------------------------------------------------------------------------


def write(path: Path, content: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """Replace the file in one step; it is on the disk when this returns."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".okome-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove the file, if it is there; it is off the disk when this returns."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put the directory's entries on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str | None:
    """SHA-256 of the file, None if it is absent."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def pending() -> dict[str, Any] | None:
    """The change that waits for its confirmation."""
    return dict(json.loads(PENDING.read_text())) if PENDING.exists() else None


@contextlib.contextmanager
def lock(seconds: float = 45) -> Iterator[None]:
    """One of us at a time."""
    until = time.monotonic() + seconds
    with LOCK.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise GuardError("another change of the address is under way.") from None
                time.sleep(0.1)
        yield


def run(*command: str, seconds: float = 40) -> str:
    """Run a program of this node; a failure is a GuardError with what it said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise GuardError(f"`{' '.join(command)}` failed: {said or f'exit {done.returncode}'}.")
    return done.stdout


def attempt(*command: str) -> bool:
    """Run a program whose failure is an answer; say on stderr (the journal) what it was."""
    try:
        run(*command)
    except (GuardError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return False
    return True


# --- the change --------------------------------------------------------------------------------------------


def arm(request: dict[str, Any]) -> dict[str, Any]:
    """Remember, arm, and apply in a moment. Nothing has been touched if this raises or says "in use"."""
    path = Path(request["path"])
    content = base64.b64decode(request.pop("content"))
    with lock():
        if pending():
            raise GuardError("a change of the address already waits for its confirmation.")
        if digest(path) != request["was"]:
            raise GuardError(f"{path} changed while it was being looked at; run the deploy again.")
        address = str(ipaddress.ip_interface(request["address"]).ip)
        held = address in (known["local"] for known in addresses(request["interface"]))
        if not held and (mac := ask_arp(request["interface"], "0.0.0.0", address)):  # noqa: S104 (a probe's sender)
            return {"result": "in use", "mac": mac}
        if request["netplan"]:
            run("netplan", "generate")  # what it cannot read now would stop the change and its undo alike
        request |= {
            "sha256": hashlib.sha256(content).hexdigest(),
            "applied": False,
            "old": None,
            "checkpoint": None,
        }
        if path.exists():
            status = path.stat()
            request["old"] = [status.st_mode & 0o7777, status.st_uid, status.st_gid]
            write(OLD, path.read_bytes(), 0o600)
        write(NEW, content, 0o600)
        remove(CONFIRMED)
        remove(FAILED)
        note(request)
        try:
            start_undo(request)
            start(SWITCH, __file__, "switch")
        except BaseException:
            disarm()
            raise
    return {"result": "armed"}


def start_undo(request: dict[str, Any]) -> None:
    """The timer, and NetworkManager's checkpoint, which also knows connections that were never on disk."""
    seconds = int(request["seconds"])
    if uses_checkpoint(request):
        # All devices, flag 2: connections that are new at the rollback are deleted.
        later = str(seconds + CHECKPOINT_AFTER_TIMER)
        answer = run("busctl", "call", *NM, "CheckpointCreate", "aouu", "0", later, "2")
        note(request | {"checkpoint": answer.split('"')[1]})
    run(
        "systemd-run", "--quiet", "--collect", f"--unit={UNDO}", f"--on-active={seconds}",
        "--timer-property=AccuracySec=1s", *RETRY, __file__, "revert",
    )  # fmt: skip


def uses_checkpoint(request: dict[str, Any]) -> bool:
    """netplan's connections live in /run: there a rollback would write a second copy of them elsewhere."""
    return request["manager"] == "NetworkManager" and not request["netplan"]


def start(unit: str, *command: str) -> None:
    """Run ourselves detached: what follows cuts the session that asked for it."""
    run("systemd-run", "--quiet", "--collect", "--no-block", f"--unit={unit}", *command)


def note(request: dict[str, Any]) -> None:
    """The mark that this change is not confirmed."""
    write(PENDING, json.dumps(request).encode(), 0o600)


def switch() -> None:
    """Put the new file in place and make the network manager use it."""
    time.sleep(0.5)  # the session that armed us reads its answer first
    with lock():
        if not (request := pending()):
            return
        try:
            write(Path(request["path"]), NEW.read_bytes(), request["mode"])
            activate(request, request["connection"])
            note(request | {"applied": True})
        except (GuardError, OSError, subprocess.TimeoutExpired) as error:
            write(FAILED, str(error).encode(), 0o600)
            undo(request)
            raise


def activate(request: dict[str, Any], connection: str | None) -> None:
    """Make the manager read its files again and configure the interface anew."""
    interface = request["interface"]
    if request["netplan"]:
        run("netplan", "generate")
    if request["manager"] == "NetworkManager":
        run("nmcli", "connection", "reload")
        up = ["nmcli", "--wait", "20", "connection", "up", str(connection), "ifname", interface]
        if not (connection and attempt(*up)):
            run("nmcli", "--wait", "20", "device", "connect", interface)
    elif request["manager"] == "systemd-networkd":
        run("networkctl", "reload")
        run("networkctl", "reconfigure", interface)
    elif request["manager"] == "dhcpcd":
        # `persistent`, Debian's default, leaves the old address behind when dhcpcd stops.
        run("systemctl", "stop", "dhcpcd")
        run("ip", "-4", "address", "flush", "dev", interface, "scope", "global")
        run("systemctl", "start", "dhcpcd")
    else:
        raise GuardError(f"unknown network manager {request['manager']}.")


def addresses(interface: str) -> list[dict[str, Any]]:
    """The IPv4 addresses of the interface, as `ip` tells them."""
    found = json.loads(run("ip", "-json", "-4", "address", "show", "dev", interface))
    return [
        address for link in found for address in link.get("addr_info", []) if address["scope"] == "global"
    ]


def holds(request: dict[str, Any]) -> bool:
    """Whether the interface has the address that was asked for."""
    wanted = str(ipaddress.ip_interface(request["address"]))
    return wanted in [f"{known['local']}/{known['prefixlen']}" for known in addresses(request["interface"])]


def complaint(request: dict[str, Any]) -> str | None:
    """What is not as it was asked for, None if all is well."""
    interface, wanted = request["interface"], ipaddress.ip_interface(request["address"])
    held = {f"{known['local']}/{known['prefixlen']}": known for known in addresses(interface)}
    if str(wanted) not in held:
        return f"{wanted} is not on {interface}"
    leased = [address for address, known in held.items() if known.get("dynamic")]
    if leased:
        return f"{interface} still has the leased address {leased[0]}"
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default", "dev", interface))
    if request["gateway"] not in [route.get("gateway") for route in routes]:
        return f"the default route does not lead to {request['gateway']}"
    if not ask_arp(interface, str(wanted.ip), request["gateway"]):
        return f"the gateway {request['gateway']} does not answer"
    return None


def confirm(sha256: str) -> int:
    """Keep the change, if it is the one that is meant, has been applied, and works."""
    with lock():
        request = pending()
        if not request and CONFIRMED.exists() and CONFIRMED.read_text() == sha256:
            return 0  # we did, and our answer was lost
        if not request or request["sha256"] != sha256:
            raise GuardError("this change of the address does not wait for a confirmation any more.")
        if not request["applied"]:
            return NOT_YET
        # dhcpcd probes an address for 6 s before it takes it, also one that the interface had before.
        until = time.monotonic() + 10
        while not holds(request) and time.monotonic() < until:
            time.sleep(0.2)
        until = time.monotonic() + 5
        while wrong := complaint(request):
            if time.monotonic() > until:
                raise GuardError(f"{wrong}.")
            time.sleep(0.2)
        if request["checkpoint"]:
            run("busctl", "call", *NM, "CheckpointDestroy", "o", request["checkpoint"])
        write(CONFIRMED, sha256.encode(), 0o600)
        disarm()
    return 0


def disarm() -> None:
    """Remove the mark, which decides, then what hangs on it."""
    remove(PENDING)
    # Not there when the timer itself has called us, nor at boot; without the mark it would do nothing.
    subprocess.run(["systemctl", "stop", f"{UNDO}.timer"], capture_output=True, timeout=20, check=False)
    for copy in (OLD, NEW):
        remove(copy)


def revert(*, boot: bool = False) -> None:
    """Undo a change that was not confirmed, if there is one. At boot the file is all there is to undo."""
    if not boot:
        # A network manager that hangs while the new file is applied must not keep the undo waiting.
        subprocess.run(
            ["systemctl", "stop", f"{SWITCH}.service"], capture_output=True, timeout=30, check=False
        )
    with lock():
        if request := pending():
            undo(request, boot=boot)


def undo(request: dict[str, Any], *, boot: bool = False) -> None:
    """Put the old file back, and make the network manager use it."""
    checkpoint = None if boot else request["checkpoint"]
    rolled_back = checkpoint and attempt("busctl", "call", *NM, "CheckpointRollback", "o", checkpoint)
    path = Path(request["path"])
    if request["old"]:
        mode, user, group = request["old"]
        write(path, OLD.read_bytes(), mode, (user, group))
    else:
        remove(path)
    if boot:
        if request["netplan"]:
            run("netplan", "generate")
    elif rolled_back:
        run("nmcli", "connection", "reload")
    else:
        activate(request, request["previous"])
    disarm()


def main(arguments: list[str]) -> int:
    """Run one command; 1 and one sentence on stderr if it failed, 75 if it is too early for it."""
    try:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        match arguments:
            case ["arm"]:
                print(json.dumps(arm(json.load(sys.stdin))))
            case ["confirm", sha256]:
                return confirm(sha256)
            case ["abandon"]:
                start(f"{UNDO}-now", *RETRY, __file__, "revert")
            case ["switch"]:
                switch()
            case ["revert"]:
                revert()
            case ["revert", "--boot"]:
                revert(boot=True)
            case _:
                print(__doc__, file=sys.stderr)
                return 64
    except (GuardError, OSError, subprocess.TimeoutExpired) as error:
        print(f"address_guard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
