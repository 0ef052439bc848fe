"""CN00's nginx: a HIT beside a static file, streams beside the origin, an outage from first to last, a full cache.

Everything runs in one lab, against one booted node, in one run. The clients are on the LAN. `wrk` asks for a HIT
and for the same bytes as a plain file of the same nginx (with the same log and headers) in turns; the ratio is
the median of those of the rounds. The streams' first bytes are taken in turns, too, each after the same pause, on
connections that are kept, and by a client that reads bytes and no more: an HTTP library takes longer over a few
more headers than nginx over the whole request. An outage is an origin that is killed (nginx itself sees that) and
one that hangs (only the probe does); every request in it has a connection of its own.
"""

import os
import shutil
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import full_cache, many_streams
from bench.finished import beside_ours, finished_node, lab, on_node, wrk
from bench.measure import Measure
from lab import LabError, machine, orchestrator
from lab.client import FRONTEND, ORCHESTRATOR, Client
from lab.orchestrator import PORT as ORCHESTRATOR_PORT
from operations.services.nginx import ACCESS_LOG

LAB = "bench"  # its own, so that another bench may run beside it
ASSET_BYTES = 16384  # a script or a style sheet, compressed
ROUNDS = 10
STREAMS = 800  # on one connection: nginx closes it after 1000 requests
PAUSE = 0.0125  # seconds before each stream; two of them keep below the limit of requests per client
FLIPS = 5
INSTANT = 0.05  # seconds; an answer that takes longer is none
FILE, TUNED_FILE = 8088, 8089  # ports of the same file, as nginx serves it and with the HIT's open_file_cache
BAREST = 8090  # port of a proxy that does nothing else
STATIC = """
server {{
    listen {port};
    root /var/lib/okome-bench;
    access_log {log} okome_fmt buffer=16k flush=1s;
    set $okome_location bench;
    include /etc/nginx/snippets/okome-headers.conf;
    {more}
}}
"""
SERVERS = STATIC.format(port=FILE, log=ACCESS_LOG, more="") + STATIC.format(
    port=TUNED_FILE, log=ACCESS_LOG, more="open_file_cache max=2000 inactive=60s; open_file_cache_valid 1s;"
)
BAREST_PROXY = f"""
upstream bench_barest {{
    server {ORCHESTRATOR}:{ORCHESTRATOR_PORT};
    keepalive 8;
    keepalive_timeout 4s;
}}
server {{
    listen {BAREST};
    location / {{
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_pass http://bench_barest;
    }}
}}
"""


def hit_beside_static(client: Client) -> list[Measure]:
    """Throughput of a HIT ÷ that of the same bytes as a file."""
    path = f"/assets/immutable/bench?size={ASSET_BYTES}"
    body = client.ask(path).body
    on_node(
        f"mkdir -p /var/lib/okome-bench && head -c {len(body)} /dev/zero >/var/lib/okome-bench/file"
        " && chmod -R a+rX /var/lib/okome-bench"
    )
    hits: list[float] = []
    files: list[float] = []
    tuned: list[float] = []
    failures = 0
    turns = (
        (f"http://{FRONTEND}{path}", hits),
        (f"http://{FRONTEND}:{FILE}/file", files),
        (f"http://{FRONTEND}:{TUNED_FILE}/file", tuned),
    )
    with beside_ours(client, SERVERS, (FILE, TUNED_FILE)):
        if client.ask(path).cache != "HIT":
            raise LabError("the asset is not a HIT")
        for number in range(ROUNDS):
            for url, rates in turns if number % 2 else reversed(turns):
                rate, failed = wrk(url)
                rates.append(rate)
                failures += failed
    ratio, beside_tuned = (
        statistics.median(hit / file for hit, file in zip(hits, other, strict=True))
        for other in (files, tuned)
    )
    against = f"the same {ASSET_BYTES} bytes as a file of the same nginx"
    return [
        Measure("throughput of a HIT", ratio, "x", against, goal=0.9, sense=">="),
        Measure("throughput of a HIT, likewise", beside_tuned, "x", f"{against}, kept open"),
        Measure("a HIT", statistics.median(hits), "requests/s"),
        Measure("failed requests", failures, "requests", goal=0, sense="=="),
    ]


def first_byte(connection: socket.socket) -> float:
    """Milliseconds from a request to the first byte of its stream; then the rest of it is read, too."""
    request = f"GET /stream?chunks=1 HTTP/1.1\r\nHost: {FRONTEND}\r\n\r\n".encode()
    answer, taken = b"", 0.0
    started = time.perf_counter()
    connection.sendall(request)
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        data = connection.recv(65536)
        if not data:
            raise LabError(f"the stream was cut short: {answer!r}")
        answer += data
        if not answer.startswith(b"HTTP/1.1 200 "[: len(answer)]):
            raise LabError(f"no stream: {answer!r}")
        if not taken and answer.partition(b"\r\n\r\n")[2]:
            taken = time.perf_counter() - started
    return taken * 1000


def added_to_first_byte(client: Client) -> list[Measure]:
    """The median through CN00 less the median without it, and that beside what the barest proxy there adds."""
    ways = ((ORCHESTRATOR, ORCHESTRATOR_PORT), (FRONTEND, 80), (FRONTEND, BAREST))
    times: list[list[float]] = [[], [], []]
    with beside_ours(client, BAREST_PROXY, (BAREST,)):
        connections = [client.connect(host, port) for host, port in ways]
        for connection in connections:
            first_byte(connection)  # the connection behind nginx is made, too
        for number in range(STREAMS):
            for turn in range(len(ways)):
                which = (number + turn) % len(ways)
                time.sleep(PAUSE)
                times[which].append(first_byte(connections[which]))
        for connection in connections:
            connection.close()
    direct, through, barest = (statistics.median(taken) for taken in times)
    against = f"the origin direct: {direct:.2f} ms, through the frontend: {through:.2f} ms"
    beside = f"what the barest proxy of the same nginx adds: {barest - direct:.3f} ms"
    return [
        Measure("added to a stream's first byte, p50", through - direct, "ms", against, goal=0.5),
        Measure(
            "added to a stream's first byte, likewise",
            (through - direct) / (barest - direct),
            "x",
            beside,
            goal=1.3,
        ),
    ]


def instant_status(client: Client) -> int | None:
    """The status of a call on a new connection; None if there is none at once."""
    try:
        with client.open("POST", "/v1/models", {"Host": FRONTEND}, b"{}", timeout=INSTANT) as response:
            return response.status
    except TimeoutError:
        return None


def seconds_until(client: Client, status: int) -> float:
    """From now until a call is answered with `status`, at once."""
    started = time.perf_counter()
    while instant_status(client) != status:
        if time.perf_counter() - started > 30:
            raise LabError(f"the frontend did not answer {status} within 30 s")
        time.sleep(0.02)  # below the limit of requests per client
    return time.perf_counter() - started


def outages(client: Client) -> list[Measure]:
    """Death and return of the origin, several times; the worst counts. Assets are asked for all the while."""
    urls = [f"http://{FRONTEND}/assets/{kind}/outage" for kind in ("short", "immutable")]
    for url in urls:
        client.ask(url.removeprefix(f"http://{FRONTEND}"))
    measures: list[Measure] = []
    failures = 0
    for mode in ("killed", "hanging"):
        down, up = [], []
        for _ in range(FLIPS):
            orchestrator.tell(mode=mode)
            down.append(seconds_until(client, 503))
            time.sleep(2)  # the probe knows by now, and the short asset is stale
            failures += sum(wrk(url, 1)[1] for url in urls)
            orchestrator.tell(mode="up")
            up.append(seconds_until(client, 200))
            time.sleep(1)
        measures += [
            Measure(f"origin {mode} to the first instant answer, worst", max(down), "s", goal=1),
            Measure(f"back from {mode} to the first real answer, worst", max(up), "s", goal=1),
        ]
    # Across the transitions, too. Who asked a hanging origin before the probe knew waits for nginx's time limit.
    for mode, seconds in (("killed", 2), ("hanging", 11)):
        with ThreadPoolExecutor(1) as thread:
            asking = thread.submit(wrk, urls[0], 2 + seconds + 2, 8)
            time.sleep(2)
            orchestrator.tell(mode=mode)
            time.sleep(seconds)
            orchestrator.tell(mode="up")
            failures += asking.result()[1]
    return [
        *measures,
        Measure("failed requests for cached assets in an outage", failures, "requests", goal=0, sense="=="),
    ]


def run() -> list[Measure]:
    """Needs root, and wrk."""
    if not shutil.which("wrk"):
        raise LabError("wrk is missing: apt-get install wrk")
    os.environ["OKOME_LAB"] = LAB
    try:
        finished_node()
        lab("origin", "up")
        with Client(Path("/run/netns", machine.namespace())) as client:
            client.wait_for(FRONTEND, 80)
            seconds_until(client, 200)  # what stood at the origin's place was ended, and the probe saw it
            return [
                *added_to_first_byte(client),
                *many_streams.measured(client),
                *outages(client),
                *hit_beside_static(client),
                *full_cache.measured(client),
            ]
    finally:
        lab("down")
