"""The planner before a server that answers at once, beside LiteLLM's proxy and that server itself."""

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.litellm_proxy import litellm
from bench.measure import Measure
from bench.planner_parts import parts
from bench.ports import free_port
from bench.redis_server import RedisServer
from bench.served import KEYS, Load, load, memory_mb, serving

ROUNDS, SECONDS = 2, 3.0  # of each load, in turns
WARM = 1.0  # s; fills the cache
MANY = 10**9  # questions: none is asked twice

BARE, OURS, THEIRS = "the server itself", "okome", "LiteLLM"
HITS, MISSES = "hits", "misses"
Loads = dict[tuple[str, str], list[Load]]


def planner(port: int, upstream: str, folder: Path) -> list[str | Path]:
    """With a ledger on this machine's disk, and limits that nobody reaches."""
    return [
        *(sys.executable, "-m", "okome.planner", "--listen", f"127.0.0.1:{port}"),
        *("--upstream", upstream),
        *("--ledger", folder / "ledger.sqlite", "--requests-per-minute", str(10**7)),
        *("--tokens-per-day", str(10**12)),
    ]


def loads(ports: dict[str, int]) -> Loads:
    """Hits and misses of each; the server itself knows no difference."""
    found: Loads = {}
    for name in (OURS, THEIRS):
        load(ports[name], WARM, prefix="hit", keys=KEYS)
    for n in range(ROUNDS):
        for name, port in ports.items():
            found.setdefault((name, HITS), []).append(load(port, SECONDS, prefix="hit", keys=KEYS))
            if name != BARE:
                found.setdefault((name, MISSES), []).append(
                    load(port, SECONDS, prefix=f"miss {n}", keys=MANY)
                )
    return found


def mean(some: list[Load], what: str) -> float:
    return sum(float(getattr(one, what)) for one in some) / len(some)


def measures(found: Loads, memory: dict[str, float]) -> list[Measure]:
    def rate(name: str, kind: str) -> float:
        return mean(found[name, kind], "rate")

    bare = rate(BARE, HITS)
    listed = [Measure(f"{BARE}: answers", bare, "/s", "asked directly, by 8 connections of wrk")]
    for kind in (HITS, MISSES):
        for name in (OURS, THEIRS):
            listed.append(Measure(f"{kind}: answers of {name}", rate(name, kind), "/s", "the same"))
            listed += [
                Measure(
                    f"{kind}: {what} added by {name}",
                    mean(found[name, kind], what) - mean(found[BARE, HITS], what),
                    "ms",
                    f"{BARE}: {mean(found[BARE, HITS], what):.2f} ms",
                )
                for what in ("p50", "p99")
            ]
    return [
        *listed,
        Measure("hits", rate(OURS, HITS) / rate(THEIRS, HITS), "x", f"{THEIRS}'s", 25, ">="),
        Measure("hits", rate(OURS, HITS) / bare, "x", BARE, 0.6, ">="),
        Measure("misses", rate(OURS, MISSES) / rate(THEIRS, MISSES), "x", f"{THEIRS}'s", 10, ">="),
        *(
            Measure(f"memory of {name}", mb, "MB", "proportional, after all this")
            for name, mb in memory.items()
        ),
        Measure("memory", memory[OURS] / memory[THEIRS], "x", f"{THEIRS}'s", 0.2),
    ]


def run() -> list[Measure]:
    redis_port = free_port()
    with (
        RedisServer("--bind", "127.0.0.1", "--port", str(redis_port)) as server,
        tempfile.TemporaryDirectory(prefix="okome-bench-") as name,
    ):
        folder = Path(name)
        url, admin_url = server.at(redis_port)
        ports = {who: free_port() for who in (BARE, OURS, THEIRS)}
        upstream = f"http://127.0.0.1:{ports[BARE]}/v1"
        # As little besides as the planner has.
        least = ("--log-level", "warning", "--no-access-log", "--no-proxy-headers")
        bare = [sys.executable, "-m", "uvicorn", "bench.bare:app", *least]
        with (
            serving([*bare, "--port", str(ports[BARE])], ports[BARE], {}),
            serving(planner(ports[OURS], upstream, folder), ports[OURS], {"OKOME_REDIS_URL": url}) as ours,
            litellm(ports[THEIRS], upstream, admin_url, folder) as theirs,
        ):
            found = loads(ports)
            memory = {OURS: memory_mb(ours), THEIRS: memory_mb(theirs)}
            alone = load(ports[BARE], WARM, prefix="alone", keys=KEYS, connections=1)
            rates = [mean(found[name, HITS], "rate") for name in (BARE, OURS)]
            server_us, hit_us = (1e6 / rate for rate in rates)
            where = asyncio.run(parts(url, folder, server_us, hit_us, alone.p50 * 1000))
    return [*measures(found, memory), *where]
