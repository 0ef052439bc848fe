"""What every node shares. Where a value has a unit, its comment names it."""

import os
import socket
from typing import TYPE_CHECKING, Annotated, Any

from group_data.valid import Address, Form, Package, Range, Seconds, Unit

if TYPE_CHECKING:
    import paramiko

# -- how the operator reaches a node


def _transport(sock: socket.socket, **arguments: Any) -> "paramiko.Transport":
    """A transport without Nagle's algorithm (a command's answer took 56 ms, without it 13.5 ms) that notices
    within 40 s that the node is gone, also while it waits for a command that says nothing for long."""
    import paramiko  # here: whoever reads a value of this file does not wait for it

    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # By name, since macOS lacks some. Seconds, seconds, a count, and milliseconds for data without an answer.
    for option, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 40_000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return paramiko.Transport(sock, **arguments)


ssh_user: Annotated[str, Form(r"[a-z_][a-z0-9_-]{0,31}", "a user's name")] = "ncadmin"
_sudo: bool = True
# OKOME_SSH_KEY and OKOME_KNOWN_HOSTS are for those who keep them elsewhere than in ~/.ssh (the lab does).
ssh_key = os.environ.get("OKOME_SSH_KEY", "")
ssh_known_hosts_file = os.environ.get("OKOME_KNOWN_HOSTS", "")
# How long a new command may wait for its channel; pyinfra's own `_timeout` does not bound that. Seconds.
ssh_paramiko_connect_kwargs = {"transport_factory": _transport, "channel_timeout": 30}

# -- the LAN

lan_prefix_length: Annotated[int, Range(8, 30, "bits")] = 24
lan_gateway: Address = "192.168.86.1"
lan_dns: list[Address] = ["192.168.86.1"]
# The node's interface on the LAN; "" is the one over which the operator reaches it.
lan_interface: Annotated[str, Form(r"[^\s/]{0,15}", "an interface's name, or nothing")] = ""
# How long a node waits for the confirmation of a new address before it goes back to the old one. Seconds.
address_confirm_seconds: Annotated[int, Range(10, 600, "s")] = 60

# -- foundation

packages: list[Package] = ["logrotate", "systemd-timesyncd"]
# How long dpkg waits for another one. Seconds.
apt_lock_timeout: Seconds = 300
# The journal's share of RAM, as journald.conf(5) writes it.
journal_max: Annotated[str, Form(r"[1-9]\d*[KMGT]?", "an amount such as 64M")] = "64M"
units_masked: list[Unit] = ["bluetooth.service", "avahi-daemon.service", "avahi-daemon.socket"]
# MB; the node has no screen. 16 is the least that the firmware takes.
gpu_memory: Annotated[int, Range(16, 512, "MB")] = 16
# noatime and commit=60 on ext4, /tmp in RAM. Off: it trades a minute of writes for the card's life.
fstab_hardened: bool = False
sysctl_settings: dict[
    Annotated[str, Form(r"[a-z0-9_]+(\.[A-Za-z0-9_/-]+)+", "a key such as vm.swappiness")], str
] = {
    # Redis and nginx ask for backlogs of 1024 and 511; the kernel caps them at this.
    "net.core.somaxconn": "4096",
    # A stream on a kept connection would start slowly again after every pause of a few hundred ms.
    "net.ipv4.tcp_slow_start_after_idle": "0",
    # Large allocations must not fail while memory is there; Redis warns at every start without it.
    "vm.overcommit_memory": "1",
    # What is swapped out on an SD card comes back slowly, and every page is a write.
    "vm.swappiness": "1",
    # Nobody stands beside the node: after a kernel panic it reboots. Seconds.
    "kernel.panic": "10",
}
