"""Many streams at once through CN00, beside as many from the origin: how late their chunks are, and what each costs."""

import selectors
import socket
import statistics
import time

from bench.finished import on_node
from bench.measure import Measure
from group_data.frontends import api_rate_per_s
from lab import LabError
from lab.client import FRONTEND, ORCHESTRATOR, Client
from lab.orchestrator import PORT as ORCHESTRATOR_PORT

AT_ONCE = {1: 0.02, 50: 0.1, 500: 0.5}  # streams: seconds between two chunks of each, as a model speaks
SECONDS = 10  # of chunks that count: those after all streams are open
OPENED = 1.25 / api_rate_per_s  # seconds from one stream to the next: below the limit per client
PROPORTIONAL = "pgrep -f 'nginx: worker' | sed 's:.*:/proc/&/smaps_rollup:' | xargs grep -h ^Pss:"


def workers_kb() -> int:
    """Memory of nginx's workers; what they share counts once."""
    return sum(int(line.split()[1]) for line in on_node(PROPORTIONAL).splitlines())


def lateness(client: Client, host: str, port: int, streams: int) -> tuple[list[float], int]:
    """(milliseconds from each chunk's sending to its arrival, memory of the workers with all streams open in kB)."""
    chunks = int((streams * OPENED * 2 + SECONDS * 2) / AT_ONCE[streams])
    request = f"GET /ticks?chunks={chunks}&interval={AT_ONCE[streams]} HTTP/1.1\r\nHost: {FRONTEND}\r\n\r\n".encode()
    waiting = selectors.DefaultSelector()
    late: list[float] = []
    memory = 0
    opened: list[socket.socket] = []

    def read(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _events in waiting.select(left):
                data = opened[key.data].recv(65536)
                arrived = time.monotonic_ns()
                if not data:
                    raise LabError(f"one of {streams} streams was cut short")
                late.extend(
                    (arrived - int(line)) / 1e6 for line in data.split() if len(line) > 10 and line.isdigit()
                )

    try:
        for _ in range(streams):
            connection = client.connect(host, port)
            connection.sendall(request)
            waiting.register(connection, selectors.EVENT_READ, data=len(opened))
            opened.append(connection)
            read(OPENED)
        memory = workers_kb()
        late.clear()
        read(SECONDS)
    finally:
        waiting.close()
        for connection in opened:
            connection.close()
    if len(late) < streams * SECONDS / AT_ONCE[streams] / 2:
        raise LabError(f"of {streams} streams only {len(late)} chunks arrived")
    return late, memory


def measured(client: Client) -> list[Measure]:
    measures: list[Measure] = []
    memory = 0.0
    for streams in AT_ONCE:
        before = workers_kb()
        direct, _memory = lateness(client, ORCHESTRATOR, ORCHESTRATOR_PORT, streams)
        through, after = lateness(client, FRONTEND, 80, streams)
        memory = (after - before) / streams
        for name, percent in (("p50", 50), ("p99", 99)):
            without, within = (statistics.quantiles(late, n=100)[percent - 1] for late in (direct, through))
            against = f"the origin direct: {without:.2f} ms, through the frontend: {within:.2f} ms"
            measures.append(
                Measure(
                    f"added to a chunk, {name}, {streams} streams at once", within - without, "ms", against
                )
            )
    return [
        *measures,
        Measure("memory per stream", memory, "kB", f"nginx's workers, {max(AT_ONCE)} streams at once"),
    ]
