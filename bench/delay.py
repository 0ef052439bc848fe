"""A delay on the way to one node of the lab: netem, or a delay line of our own where the kernel has no netem.

As a program (`python -m bench.delay DEVICE SECONDS`, inside the LAN) it is that delay line.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from lab import LabError, lan, machine
from lab.node import Node

DEVICE = "delay"
TABLE = "86"  # of routes, for what has been delayed
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

# The least of ten: what the way costs, without what a busy machine adds.
ROUND_TRIP = """
import socket, sys, time
def connect():
    before = time.monotonic()
    socket.create_connection((sys.argv[1], 22), timeout=10).close()
    return time.monotonic() - before
print(min(connect() for _ in range(10)) * 1000)
"""


def round_trip(address: str) -> float:
    """Milliseconds that a TCP connection from the operator to a node takes: one round trip."""
    return float(machine.run(machine.in_lan(sys.executable, "-c", ROUND_TRIP, address), timeout=120))


@contextmanager
def delayed(node: Node, address: str, milliseconds: float) -> Iterator[float]:
    """Every packet to the node arrives so much later; gives the round trip in milliseconds, as measured.

    LabError if the round trip did not grow by as much: then nothing below would be true.
    """
    before = round_trip(address)
    if not milliseconds:
        yield before
        return
    netem = ["tc", "qdisc", "add", "dev", f"vb-{node.name}", "root", "netem", "delay", f"{milliseconds}ms"]
    tried = subprocess.run(machine.in_lan(*netem), capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode == 0:
        try:
            yield grown(before, round_trip(address), milliseconds)
        finally:
            machine.run(machine.in_lan("tc", "qdisc", "del", "dev", f"vb-{node.name}", "root"))
    elif "kind is unknown" in tried.stderr:
        with _delay_line(address, milliseconds):
            yield grown(before, round_trip(address), milliseconds)
    else:
        raise LabError(f"tc could not add a delay: {tried.stderr.strip()}")


def grown(before: float, now: float, milliseconds: float) -> float:
    if now < before + milliseconds * 0.9:
        raise LabError(
            f"a delay of {milliseconds} ms made a round trip of {before:.2f} ms one of {now:.2f} ms."
        )
    return now


@contextmanager
def _delay_line(address: str, milliseconds: float) -> Iterator[None]:
    """What the operator sends to the address goes through a tun device, whose other end holds it back."""
    lines = (
        f"ip tuntap add dev {DEVICE} mode tun",
        f"ip addr add {lan.GATEWAY}/32 dev {DEVICE}",
        f"ip link set {DEVICE} up",
        # It comes back in with the operator's own address, and the answers come by another device.
        f"sysctl -qw net.ipv4.conf.{DEVICE}.accept_local=1",
        f"sysctl -qw net.ipv4.conf.{DEVICE}.rp_filter=2",
        f"sysctl -qw net.ipv4.conf.{lan.BRIDGE}.rp_filter=2",
        f"ip route add {lan.NETWORK} dev {lan.BRIDGE} table {TABLE}",
        f"ip rule add iif {DEVICE} lookup {TABLE}",
        f"ip route add {address} dev {DEVICE} src {lan.GATEWAY}",
    )
    undo = (f"ip link del {DEVICE}", f"ip rule del iif {DEVICE}", f"ip route flush table {TABLE}")
    relay = None
    try:
        for line in lines:
            machine.run(machine.in_lan(*line.split()))
        relay = subprocess.Popen(
            machine.in_lan(sys.executable, "-m", "bench.delay", DEVICE, str(milliseconds / 1000)),
            stdin=subprocess.DEVNULL,
        )
        yield
    finally:
        if relay:
            relay.terminate()
            relay.wait(timeout=10)
        for line in undo:
            machine.run(machine.in_lan(*line.split()), check=False)


def hold_back(device: str, seconds: float) -> None:
    """Read packets from a tun device, and write each back to it so much later. Ends by a signal."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    waiting: deque[tuple[float, bytes]] = deque()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([tun], [], [], pause)[0]:
            packet = os.read(tun, 65536)
            waiting.append((time.monotonic() + seconds, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(tun, waiting.popleft()[1])


if __name__ == "__main__":
    hold_back(sys.argv[1], float(sys.argv[2]))
