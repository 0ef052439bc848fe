"""Where the tier's services listen, and who has that place already."""

from collections.abc import Iterable
from dataclasses import dataclass

from facts.listeners import Listener, Listeners
from facts.several import Question
from operations.primitives.preflight import Look

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Socket:
    """What `unit` is about to listen on, on behalf of `service`. `tunable` is what moves it to another port; empty
    where nothing does."""

    service: str
    unit: str
    address: str
    port: int
    tunable: str = ""


def look(*sockets: Socket) -> Look:
    """What stands where one of these is to be."""
    ports = tuple(dict.fromkeys(socket.port for socket in sockets))
    return Look((Question(Listeners, {"ports": ports}),), lambda found: taken(found, sockets))


def taken(found: Iterable[Listener], sockets: Iterable[Socket]) -> list[str]:
    """One sentence for each process that has a port of ours. What listens beside ours (`::1`, a container's address)
    is in nobody's way, and of what our own unit has on it that unit's checker knows more."""
    said = [
        f"port {socket.port}, which {socket.service} needs, is taken by {one.process or 'somebody'}"
        f" (pid {one.pid}, {one.unit}): {_end(one)}"
        + (f", or choose another {socket.tunable}" if socket.tunable else "")
        for socket in sockets
        for one in found
        if one.port == socket.port and one.unit != socket.unit and one.takes(socket.address)
    ]
    return list(dict.fromkeys(said))


def _end(one: Listener) -> str:
    if one.pid == "1":
        return "a socket unit has it, which `systemctl list-sockets` names: disable that"
    return f"`systemctl disable --now {one.unit}`" if one.unit != "-" else "end it, and what starts it"
