"""What every node shares. Where a value has a unit, its comment names it."""

import os
import socket
from typing import Any

import paramiko

# -- how the operator reaches a node


def _transport(sock: socket.socket, **arguments: Any) -> paramiko.Transport:
    """A transport without Nagle's algorithm: a command's answer took 56 ms, without it 13.5 ms."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **arguments)


ssh_user = "ncadmin"
_sudo = True
# OKOME_SSH_KEY and OKOME_KNOWN_HOSTS are for those who keep them elsewhere than in ~/.ssh (the lab does).
ssh_key = os.environ.get("OKOME_SSH_KEY")
ssh_known_hosts_file = os.environ.get("OKOME_KNOWN_HOSTS")
# pyinfra's own `_timeout` does not bound a dead link; the channel's does. Seconds.
ssh_paramiko_connect_kwargs = {"transport_factory": _transport, "channel_timeout": 30}

# -- the LAN

lan_prefix_length = 24
lan_gateway = "192.168.86.1"
lan_dns = ["192.168.86.1"]

__all__ = [
    "_sudo",
    "lan_dns",
    "lan_gateway",
    "lan_prefix_length",
    "ssh_key",
    "ssh_known_hosts_file",
    "ssh_paramiko_connect_kwargs",
    "ssh_user",
]
