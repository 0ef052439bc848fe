"""Who listens, asked of this machine, and what that keeps others from: its sockets are real."""

import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from facts.answer import marked
from facts.listeners import Listener, Listeners, parse


def ask(*ports: int) -> tuple[Listener, ...]:
    fact = Listeners()
    command = fact.command(ports=ports)
    assert marked("").split("\n")[1] in command  # a greeting is none of its lines
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert said.stderr == ""
    return fact.process(said.stdout.splitlines())


def listening(address: str, port: int = 0, only6: bool = True) -> socket.socket:
    """As nginx does it, and Redis."""
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
    one.bind((address, port))
    one.listen()
    return one


def test_who_has_the_ports() -> None:
    with closing(listening("127.0.0.1")) as one, closing(listening("127.0.0.2")) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
        found = {listener.address: listener for listener in ask(*ports)}
        assert {listener.address for listener in ask(ports[0])} == {"127.0.0.1"}
    assert set(found) == {"127.0.0.1", "127.0.0.2"}
    process = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    for listener, port in zip((found["127.0.0.1"], found["127.0.0.2"]), ports, strict=True):
        assert (listener.port, listener.process, listener.pid) == (port, process, str(os.getpid()))
        assert listener.unit == "-" or listener.unit.endswith(".service")
    assert ask(*ports) == ()


def test_what_is_said_of_them() -> None:
    assert parse(["[::1]:6379 253 valkey-server.service a b", "*:80 - - "]) == (
        Listener("[::1]", 6379, "a b", "253", "valkey-server.service"),
        Listener("*", 80, "", "-", "-"),
    )
    assert parse([]) == Listeners.default() == ()


@pytest.mark.parametrize(
    ("theirs", "only6", "taken"),
    [
        ("127.0.0.2", True, ("127.0.0.2", "0.0.0.0")),  # noqa: S104
        ("0.0.0.0", True, ("127.0.0.1", "127.0.0.2", "0.0.0.0")),  # noqa: S104
        ("::", False, ("127.0.0.1", "127.0.0.2", "0.0.0.0")),  # noqa: S104
        ("::ffff:127.0.0.2", False, ("127.0.0.2", "0.0.0.0")),  # noqa: S104
        ("::", True, ()),
        ("::1", True, ()),
    ],
)
def test_a_socket_takes_what_the_kernel_says_it_takes(
    theirs: str, only6: bool, taken: tuple[str, ...]
) -> None:
    with closing(listening(theirs, only6=only6)) as one:
        port = one.getsockname()[1]
        (found,) = ask(port)
        for ours in ("127.0.0.1", "127.0.0.2", "0.0.0.0"):  # noqa: S104
            assert found.takes(ours) == (ours in taken)
            if ours in taken:
                with pytest.raises(OSError, match="in use"):
                    listening(ours, port)
            else:
                listening(ours, port).close()


def test_a_socket_of_one_interface_takes_its_address() -> None:
    assert Listener("127.0.0.53%lo", 53, "", "-", "-").takes("127.0.0.53")
    assert not Listener("[fe80::1%eth0]", 53, "", "-", "-").takes("0.0.0.0")  # noqa: S104
