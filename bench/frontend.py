"""CN00's nginx: a HIT beside a static file, a stream beside the origin, an outage from its first to its last second.

Everything runs in one lab, against one booted node, in one run. The clients are on the LAN. `wrk` asks for a HIT
and for the same bytes as a plain file of the same nginx (with the same log and headers) in turns; the ratio is
the median of those of the rounds. The streams' first bytes are taken in turns, too, each after the same pause, on
connections that are kept, and by a client that reads bytes and no more: an HTTP library takes longer over a few
more headers than nginx over the whole request. An outage is an origin that is killed (nginx itself sees that) and
one that hangs (only the probe does); every request in it has a connection of its own.
"""

import json
import os
import re
import shutil
import socket
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import inventory
from bench.measure import Measure
from lab import LabError, machine, orchestrator
from lab.client import FRONTEND, ORCHESTRATOR, Client
from lab.operator import deploy

LAB = "bench"
NODE = inventory.frontends[0][0]
ASSET_BYTES = 16384  # a script or a style sheet, compressed
ROUNDS = 10
ROUND_SECONDS = 2
CONNECTIONS = 32
STREAMS = 800  # on one connection: nginx closes it after 1000 requests
PAUSE = 0.0125  # seconds before each stream; two of them keep below the limit of requests per client
FLIPS = 5
INSTANT = 0.05  # seconds; an answer that takes longer is none
SECONDS = 600  # for one command of the lab
FILE, TUNED_FILE = 8088, 8089  # ports of the same file, as nginx serves it and with the HIT's open_file_cache
STATIC = """
server {{
    listen {port};
    root /var/lib/okome-bench;
    access_log /var/log/nginx/okome/access.log okome_fmt buffer=16k flush=1s;
    set $okome_location bench;
    include /etc/nginx/snippets/okome-headers.conf;
    {more}
}}
"""
SERVERS = STATIC.format(port=FILE, more="") + STATIC.format(
    port=TUNED_FILE, more="open_file_cache max=2000 inactive=60s; open_file_cache_valid 1s;"
)


def lab(*words: str) -> str:
    """A command of the bench's own lab."""
    return machine.run(
        [sys.executable, "-m", "lab", *words], timeout=SECONDS, env=os.environ | {"OKOME_LAB": LAB}
    )


def on_node(script: str) -> str:
    return lab("exec", NODE, "--", "sh", "-ec", script)


def finished_node() -> None:
    """CN00 as the deploy leaves it, in a lab of the bench's own."""
    lab("up", NODE)
    address = json.loads(lab("status", "--json"))["nodes"][NODE]["address"]
    lab("run", "--", *deploy(NODE), "-y", "--data", f"ssh_hostname={address}")


def verdict(said: str) -> tuple[float, int]:
    """What wrk said: requests per second, and how many failed (status, connection or time-out)."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if not rate:
        raise LabError(f"wrk said something else than expected: {said.strip()}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed = int(refused[1]) if refused else 0
    return float(rate[1]), failed + (sum(map(int, errors.groups())) if errors else 0)


def wrk(url: str, seconds: int = ROUND_SECONDS, connections: int = CONNECTIONS) -> tuple[float, int]:
    """Requests per second of one round, and how many of them failed. LabError if wrk itself did."""
    words = ("-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", url)
    return verdict(machine.run(machine.in_lan("wrk", *words), timeout=seconds + 30))


def hit_beside_static(client: Client) -> list[Measure]:
    """Throughput of a HIT ÷ that of the same bytes as a file."""
    path = f"/assets/immutable/bench?size={ASSET_BYTES}"
    body = client.ask(path).body
    on_node(
        f"mkdir -p /var/lib/okome-bench && head -c {len(body)} /dev/zero >/var/lib/okome-bench/file"
        f" && chmod -R a+rX /var/lib/okome-bench && printf %s '{SERVERS}' >/etc/nginx/conf.d/zz-bench.conf"
        " && nginx -s reload"
    )
    try:
        client.wait_for(FRONTEND, TUNED_FILE)
        time.sleep(2)  # for the old workers to end: they close the connections that they have
        if client.ask(path).cache != "HIT":
            raise LabError("the asset is not a HIT")
        hits: list[float] = []
        files: list[float] = []
        tuned: list[float] = []
        failures = 0
        turns = (
            (f"http://{FRONTEND}{path}", hits),
            (f"http://{FRONTEND}:{FILE}/file", files),
            (f"http://{FRONTEND}:{TUNED_FILE}/file", tuned),
        )
        for number in range(ROUNDS):
            for url, rates in turns if number % 2 else reversed(turns):
                rate, failed = wrk(url)
                rates.append(rate)
                failures += failed
    finally:
        on_node("rm -rf /etc/nginx/conf.d/zz-bench.conf /var/lib/okome-bench && nginx -s reload")
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
    """The median through CN00 less the median without it."""
    connections = [client.connect(host, port) for host, port in ((ORCHESTRATOR, 8000), (FRONTEND, 80))]
    for connection in connections:
        first_byte(connection)  # the connection behind nginx is made, too
    times: list[list[float]] = [[], []]
    for number in range(STREAMS):
        for which in (0, 1) if number % 2 else (1, 0):
            time.sleep(PAUSE)
            times[which].append(first_byte(connections[which]))
    for connection in connections:
        connection.close()
    direct, through = (statistics.median(taken) for taken in times)
    against = f"the origin direct: {direct:.2f} ms, through the frontend: {through:.2f} ms"
    return [Measure("added to a stream's first byte, p50", through - direct, "ms", against, goal=0.5)]


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
            # The static file last: it takes reloads, after which kept connections end.
            return [*added_to_first_byte(client), *outages(client), *hit_beside_static(client)]
    finally:
        lab("down")
