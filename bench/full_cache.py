"""A cache of 100 000 entries and 2 GB: how late its HITs are, and how soon there are some after a restart."""

import re
import tempfile
import time

from bench.finished import on_node
from bench.measure import Measure
from lab import LabError, machine
from lab.client import FRONTEND, Client
from operations.services.probe import CACHE

ENTRIES = 100_000
# With its head an entry takes five blocks of 4 kB: 100 000 of them are just below cache_max_mb.
ASSET_BYTES = 19_000
THREADS = 2
FILL_SECONDS, LIMIT = 20, 1800  # of one round, of all
# wrk's own language. To fill the cache each thread asks for its half in order, from `begin` on.
SCRIPT = """
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init() asked = {begin}; math.randomseed(id) end
function request()
    asked = asked + 1
    return wrk.format("GET", "/assets/immutable/full-" .. {number} .. "?size={size}")
end
"""


def ask(number: str, seconds: int, begin: int = 0) -> str:
    """What wrk says of requests for the entries that a Lua expression numbers."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(SCRIPT.format(number=number, size=ASSET_BYTES, begin=begin))
        file.flush()
        words = ("wrk", f"-t{THREADS}", "-c16", f"-d{seconds}s", "--timeout", "10s", "--latency")
        said = machine.run(
            machine.in_lan(*words, "-s", file.name, f"http://{FRONTEND}"), timeout=seconds + 60
        )
    if "Non-2xx" in said or "Socket errors" in said:
        raise LabError(f"requests failed: {said}")
    return said


def entries() -> tuple[int, int]:
    """(files in the cache, their kB on the disk)."""
    files, kilobytes = on_node(f"find {CACHE} -type f | wc -l; du -sk {CACHE} | cut -f1").split()
    return int(files), int(kilobytes)


def fill() -> tuple[int, int]:
    half = ENTRIES // THREADS
    until = time.monotonic() + LIMIT
    files = 0
    while files < ENTRIES:
        if time.monotonic() > until:
            raise LabError(f"only {files} of {ENTRIES} entries are in the cache after {LIMIT} s")
        # A little before where the slower thread can have got to: what is there already is a HIT.
        ask(f"id * {half} + asked % {half}", FILL_SECONDS, begin=int(files / THREADS * 0.9))
        files, kilobytes = entries()
    return files, kilobytes


def milliseconds(said: str, percent: int) -> float:
    found = re.search(rf"^ +{percent}%\s+([0-9.]+)(us|ms|s)$", said, re.M)
    if not found:
        raise LabError(f"wrk said something else than expected: {said}")
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def measured(client: Client) -> list[Measure]:
    files, kilobytes = fill()
    one = milliseconds(ask("1", 5), 99)
    any_of_them = milliseconds(ask(f"math.random(0, {ENTRIES} - 1)", 10), 99)
    before = time.perf_counter()
    on_node("systemctl restart nginx")
    asked = misses = 0
    while asked < 100:
        try:
            misses += (
                client.ask(f"/assets/immutable/full-{asked * 997 % ENTRIES}?size={ASSET_BYTES}").cache
                != "HIT"
            )
        except ConnectionError:
            time.sleep(0.01)
            continue
        asked += 1
        if asked == 1:
            first = time.perf_counter() - before
    against = f"{files} entries, {kilobytes / 2**20:.2f} GiB"
    return [
        Measure(
            "p99 of a HIT, any entry of a full cache",
            any_of_them,
            "ms",
            f"{against}; one entry: {one:.2f} ms",
        ),
        Measure("restart with a full cache to the first HIT", first, "s", against),
        Measure(
            "of the first hundred entries asked for then no HIT",
            misses,
            "entries",
            against,
            goal=0,
            sense="==",
        ),
    ]
