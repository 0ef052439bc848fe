"""CN00's nginx: a HIT beside a static file, a stream beside the origin, an outage from its first to its last second.

Everything runs in one lab, against one booted node, in one run. The clients are on the LAN. `wrk` asks for a HIT
and for the same bytes as a plain file of the same nginx (with the same log and headers) in turns; the ratio is
the median of those of the rounds. The streams' first bytes are taken in turns, too, on connections that are kept.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from bench.measure import Measure
from lab import LabError, machine, orchestrator
from lab.client import FRONTEND, ORCHESTRATOR, Client

LAB = "bench"
NODE = "cn00"
ASSET_BYTES = 16384  # a script or a style sheet, compressed
ROUNDS = 10
ROUND_SECONDS = 2
CONNECTIONS = 32
STREAMS = 400
FLIPS = 5
SECONDS = 600  # for one command of the lab
STATIC = """
server {{
    listen 8088;
    root /var/lib/okome-bench;
    access_log /var/log/nginx/okome/access.log okome_fmt buffer=16k flush=1s;
    set $okome_location bench;
    include /etc/nginx/snippets/okome-headers.conf;
}}
"""


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
    lab(
        "run",
        "--",
        "pyinfra",
        "inventory.py",
        f"deploys/{NODE}.py",
        "-y",
        "--data",
        f"ssh_hostname={address}",
    )


def wrk(url: str, seconds: int = ROUND_SECONDS) -> tuple[float, int]:
    """Requests per second of one round, and how many of them failed."""
    done = subprocess.run(
        machine.in_lan("wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", url),
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", done)
    if not rate:
        raise LabError(f"wrk said something else than expected: {done.strip()}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done)
    failed = int(refused[1]) if refused else 0
    return float(rate[1]), failed + (sum(map(int, errors.groups())) if errors else 0)


def hit_beside_static(client: Client) -> list[Measure]:
    """Throughput of a HIT ÷ that of the same bytes as a file."""
    path = f"/assets/immutable/bench?size={ASSET_BYTES}"
    body = client.ask(path).body
    on_node(
        f"mkdir -p /var/lib/okome-bench && head -c {len(body)} /dev/zero >/var/lib/okome-bench/file"
        f" && chmod -R a+rX /var/lib/okome-bench && printf %s '{STATIC.format()}' >/etc/nginx/conf.d/zz-bench.conf"
        " && nginx -s reload"
    )
    try:
        client.wait_for(FRONTEND, 8088)
        time.sleep(2)  # for the old workers to end: they close the connections that they have
        if client.ask(path).cache != "HIT":
            raise LabError("the asset is not a HIT")
        hits: list[float] = []
        files: list[float] = []
        failures = 0
        turns = ((f"http://{FRONTEND}{path}", hits), (f"http://{FRONTEND}:8088/file", files))
        for number in range(ROUNDS):
            for url, rates in turns if number % 2 else reversed(turns):
                rate, failed = wrk(url)
                rates.append(rate)
                failures += failed
    finally:
        on_node("rm -rf /etc/nginx/conf.d/zz-bench.conf /var/lib/okome-bench && nginx -s reload")
    ratio = statistics.median(hit / file for hit, file in zip(hits, files, strict=True))
    against = f"the same {ASSET_BYTES} bytes as a file of the same nginx"
    return [
        Measure("throughput of a HIT", ratio, "x", against, goal=0.9, sense=">="),
        Measure("a HIT", statistics.median(hits), "requests/s"),
        Measure("failed requests", failures, "requests", goal=0, sense="=="),
    ]


def first_byte(connection: HTTPConnection) -> float:
    """Milliseconds from a request to the first byte of its stream."""
    started = time.perf_counter()
    connection.request("GET", "/stream?chunks=1", headers={"Host": FRONTEND})
    response = connection.getresponse()
    response.read(1)
    taken = time.perf_counter() - started
    response.read()
    return taken * 1000


def added_to_first_byte(client: Client) -> list[Measure]:
    """The median through CN00 less the median without it."""
    connections, times = [], []
    for host, port in ((ORCHESTRATOR, 8000), (FRONTEND, 80)):
        connection = HTTPConnection(host)
        connection.sock = client.connect(host, port)
        connections.append(connection)
        times.append([first_byte(connection)])
    for _ in range(STREAMS):
        for connection, taken in zip(connections, times, strict=True):
            taken.append(first_byte(connection))
        time.sleep(0.025)  # below the limit of requests per client
    for connection in connections:
        connection.close()
    direct, through = (statistics.median(taken) for taken in times)
    against = f"the origin direct: {direct:.2f} ms, through CN00: {through:.2f} ms"
    return [Measure("added to a stream's first byte, p50", through - direct, "ms", against, goal=0.5)]


def seconds_until(client: Client, wanted: Callable[[int], bool]) -> float:
    """From now until an answer with the wanted status has come."""
    started = time.perf_counter()
    while not wanted(client.ask("/v1/models", "POST", body="{}").status):
        if time.perf_counter() - started > 30:
            raise LabError("the frontend did not change its answer within 30 s")
        time.sleep(0.02)  # below the limit of requests per client
    return time.perf_counter() - started


def outages(client: Client) -> list[Measure]:
    """Death and return of the origin, several times; the worst counts. Assets are asked for all the while."""
    assets = (f"http://{FRONTEND}/assets/{kind}/outage" for kind in ("short", "immutable"))
    urls = list(assets)
    for url in urls:
        client.ask(url.removeprefix(f"http://{FRONTEND}"))
    down, up, failures = [], [], 0
    for _ in range(FLIPS):
        orchestrator.tell(mode="killed")
        down.append(seconds_until(client, lambda status: status == 503))
        time.sleep(2)  # the probe knows by now, and the short asset is stale
        failures += sum(wrk(url, 1)[1] for url in urls)
        orchestrator.tell(mode="up")
        up.append(seconds_until(client, lambda status: status == 200))
        time.sleep(1)
    with tempfile.TemporaryFile() as output:
        asking = subprocess.Popen(machine.in_lan("wrk", "-t1", "-c8", "-d6s", urls[0]), stdout=output)
        time.sleep(2)
        orchestrator.tell(mode="killed")
        time.sleep(2)
        orchestrator.tell(mode="up")
        asking.wait(30)
        output.seek(0)
        through = output.read().decode()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", through)
    failures += int(refused[1]) if refused else 0
    return [
        Measure("origin killed to the first instant answer, worst", max(down), "s", goal=1),
        Measure("origin back to the first real answer, worst", max(up), "s", goal=1),
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
            # The static file last: it takes reloads, after which kept connections end.
            return [*added_to_first_byte(client), *outages(client), *hit_beside_static(client)]
    finally:
        lab("down")
