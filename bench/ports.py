"""TCP ports for the servers that benches and tests start."""

import errno
import random
import socket


def free_port() -> int:
    """A port of loopback where nobody listens. Below those that the kernel gives to outgoing connections (from 32768
    on Linux, 49152 elsewhere): one of these would be taken again, on a busy machine, before the server binds it."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return port
