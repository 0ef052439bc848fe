"""The planner's library: hits, stampedes, failures, budgets, beside what others offer."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from cashews import Cache as Cashews
from dogpile.cache import make_region
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pyrate_limiter import Limiter
from pyrate_limiter import Rate as PyrateRate
from pyrate_limiter.buckets import RedisBucket
from redis.asyncio import ConnectionPool, Redis
from throttled.asyncio import RateLimiterType, Throttled
from throttled.asyncio.store import RedisStore

from bench import cache_processes as far
from bench.cache_failover import failover
from bench.measure import Measure
from bench.ports import free_port
from bench.processes import Processes, barrier, event
from bench.redis_server import RedisServer
from okome import Budgets, Cache, Cap, Ledger, Msgpack, Rate, Rule, connect

CALLS = 3000
BLOCK, TURNS = 50, 20  # calls in one go at most, turns at least
READERS = 50
VALUE = {"id": "chatcmpl-1", "text": "a rice bowl holds more than it shows " * 25}
Call = Callable[[], Awaitable[Any]]


class Answer(msgspec.Struct):
    id: str
    text: str


async def ratios(calls: dict[str, Call], base: str, *, times: int = CALLS) -> dict[str, float]:
    """Each as a multiple of `base`. They take turns, a few calls at a time; the medians of single calls are
    compared: whatever else the machine does hits all, and the few calls it interrupts don't count.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    block = min(BLOCK, max(1, times // TURNS))
    for _ in range(times // block):
        for name, call in calls.items():
            for _ in range(block):
                begin = time.perf_counter()
                await call()
                taken[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(some) for name, some in taken.items()}
    return {name: median / medians[base] for name, median in medians.items()}


async def _never() -> Answer:
    raise AssertionError("a hit computes nothing")


async def hits(url: str, admin_url: str) -> list[Measure]:
    client = connect(url)
    own = client.client()  # a connection of its own: what the pool costs is not in it
    body = msgspec.msgpack.encode(VALUE)
    await client.set("okome:raw", body)
    cashews = Cashews()
    cashews.setup(admin_url)
    await cashews.set("cashews", VALUE)
    await cashews.set("cashews-locked", VALUE)

    @cashews(ttl=600, key="locked")
    async def by_cashews() -> Any:
        return VALUE

    @cashews(ttl=600, key="many:{n}")
    async def many_by_cashews(n: int) -> Any:
        return VALUE

    @cashews.locked(ttl=10, key="lock")
    @cashews(ttl=600, key="locked-too")
    async def by_cashews_lock() -> Any:
        return VALUE

    plain = far.aiocache_at(admin_url, ConnectionPool)
    await plain.set("k", VALUE)
    region = make_region().configure(
        "dogpile.cache.redis",
        arguments={"url": admin_url},
    )
    region.set("dogpile", VALUE)

    async def by_dogpile() -> Any:
        return region.get("dogpile")

    async with Cache(client, namespace="bench", codec=Msgpack(Answer)) as cache:
        await cache.put("k", Answer(**VALUE))
        for n in range(READERS):
            await cache.put(str(n), Answer(**VALUE))
            await client.set(f"okome:raw:{n}", body)

        async def raw() -> Any:
            return await client.get("okome:raw")

        async def ours() -> Any:
            return await cache.get_or_compute("k", _never)

        async def all_at_once(one: Callable[[int], Awaitable[Any]]) -> None:
            async def reader(n: int) -> None:
                for _ in range(10):
                    await one(n)

            await asyncio.gather(*(reader(n) for n in range(READERS)))

        single = await ratios(
            {
                "raw": raw,
                "raw, a connection of its own": lambda: own.get("okome:raw"),
                "okome": ours,
                "cashews": by_cashews,
                "cashews lock": by_cashews_lock,
                "aiocache": lambda: plain.get("k"),
                "dogpile": by_dogpile,
            },
            "raw",
        )
        many = await ratios(
            {
                "raw": lambda: all_at_once(lambda n: client.get(f"okome:raw:{n}")),
                "okome": lambda: all_at_once(lambda n: cache.get_or_compute(str(n), _never)),
                "cashews": lambda: all_at_once(many_by_cashews),
            },
            "raw",
            times=60,
        )
    await cashews.close()
    await plain.client.aclose()
    await own.aclose(close_connection_pool=False)
    await client.aclose()
    against = "one raw GET of redis-py, the same client and its pool"
    return [
        Measure("hit", single["okome"], "x", against, 1.0),
        *(
            Measure(f"hit: {name}", single[name], "x", against)
            for name in single
            if name not in ("raw", "okome")
        ),
        Measure(
            f"throughput, {READERS} readers", 1 / many["okome"], "x", "raw GETs, as many readers", 6.0, ">="
        ),
        Measure("throughput: cashews", 1 / many["cashews"], "x", "raw GETs, as many readers"),
    ]


def stampede(server: RedisServer, url: str, library: str) -> tuple[int, int, float, int]:
    """4 processes × 250 concurrent misses of 200 ms: computes, errors, p99 (ms), Redis commands."""
    server.admin.flushall()
    server.admin.script_flush()
    server.forget_calls()
    ready = barrier(far.PROCESSES)
    processes = Processes(far.stampede, [(library, url, ready)] * far.PROCESSES)
    try:
        results = processes.results()
        commands = sum(n for name, n in server.calls().items() if not name.startswith(("config", "info")))
    finally:
        processes.end()
    latencies = sorted(latency for _, _, some in results for latency in some)
    p99 = latencies[int(len(latencies) * 0.99) - 1] * 1000 if latencies else float("inf")
    return sum(r[0] for r in results), sum(r[1] for r in results), p99, commands


def stampedes(server: RedisServer, url: str, admin_url: str) -> list[Measure]:
    measures = []
    computes, errors, p99, commands = stampede(server, url, "okome")
    measures += [
        Measure("stampede: computes", computes, "", "4 × 250 cold misses of 200 ms", 1, "=="),
        Measure("stampede: errors", errors, "", "4 × 250 cold misses of 200 ms", 0, "=="),
        Measure("stampede: Redis commands", commands, "", "those within scripts and to connect included", 60),
        Measure("stampede: p99", p99, "ms", "200 ms of computing"),
    ]
    for library in ("cashews", "aiocache", "dogpile"):
        computes, errors, p99, commands = stampede(server, admin_url, library)
        measures += [
            Measure(f"stampede: computes of {library}", computes, "", "the same"),
            Measure(
                f"stampede: errors of {library}",
                errors,
                "",
                f"the same; threads, hung after {far.PATIENCE:g} s" if library == "dogpile" else "the same",
            ),
            Measure(f"stampede: commands of {library}", commands, "", "the same"),
            Measure(f"stampede: p99 of {library}", p99, "ms", "the same"),
        ]
    return measures


def wake_up(url: str, rounds: int = 60) -> Measure:
    ready = barrier(far.PROCESSES)
    processes = Processes(far.wake_up, [(url, ready, index, rounds) for index in range(far.PROCESSES)])
    try:
        results = processes.results(within=120)
    finally:
        processes.end()
    delivered: dict[int, float] = next(result for leader, result in results if leader)
    delays = sorted(
        (at - delivered[n]) * 1000 for leader, result in results if not leader for n, at in result.items()
    )
    return Measure(
        "wake-up across processes: p99",
        delays[int(len(delays) * 0.99) - 1],
        "ms",
        "the end of computing",
        15.0,
    )


def long_compute(url: str) -> Measure:
    ready = barrier(far.PROCESSES)
    processes = Processes(far.long_compute, [(url, ready)] * far.PROCESSES)
    try:
        computes = sum(processes.results())
    finally:
        processes.end()
    return Measure("computes, each 3 × the lock's TTL", computes, "", "4 processes asking", 1, "==")


def holder_killed(url: str) -> Measure:
    worst = 0.0
    for n in range(3):
        begun, waiting = event(), event()
        holder = Processes(far.hold, [(url, f"held-{n}", begun)])
        if not begun.wait(timeout=60):
            raise RuntimeError("the holder did not begin")
        waiter = Processes(far.take_over, [(url, f"held-{n}", waiting)])
        if not waiting.wait(timeout=60):
            raise RuntimeError("the waiter did not ask")
        killed = time.monotonic()
        holder.end()
        try:
            (taken,) = waiter.results()
        finally:
            waiter.end()
        worst = max(worst, (taken - killed - far.LOCK_TTL) * 1000)
    return Measure(
        "holder killed: until taken over, less the TTL", worst, "ms", "kill -9 of the holder", 250.0
    )


async def redis_killed() -> list[Measure]:
    """In the middle of a computation of 300 ms: whoever waits for it waits at most 100 ms longer."""
    worst, errors = 0.0, 0
    for _ in range(3):
        with RedisServer() as server:
            client = connect(server.url)
            async with Cache(client, namespace="bench", codec=Msgpack(str)) as cache:

                async def compute() -> str:
                    await asyncio.sleep(0.3)
                    return "answer"

                begin = time.monotonic()
                waiters = [asyncio.create_task(cache.get_or_compute("k", compute)) for _ in range(20)]
                await asyncio.sleep(0.15)
                server.kill()
                found = await asyncio.gather(*waiters, return_exceptions=True)
                worst = max(worst, (time.monotonic() - begin - 0.3) * 1000)
                errors += sum(isinstance(one, BaseException) for one in found)
            await client.aclose()
    return [
        Measure("Redis killed mid-compute: delay", worst, "ms", "the computation itself", 100.0),
        Measure("Redis killed mid-compute: errors", errors, "", "3 × 20 waiters", 0, "=="),
    ]


async def cancelled(url: str) -> list[Measure]:
    client = connect(url)
    computes = 0

    async def compute() -> str:
        nonlocal computes
        computes += 1
        await asyncio.sleep(0.1)
        return "answer"

    async with Cache(client, namespace="cancel", codec=Msgpack(str)) as cache:
        waiters = [asyncio.create_task(cache.get_or_compute("k", compute)) for _ in range(20)]
        await asyncio.sleep(0.05)
        waiters[0].cancel()
        found = await asyncio.gather(*waiters, return_exceptions=True)
    await client.aclose()
    answers = sum(not isinstance(one, BaseException) for one in found)
    return [
        Measure(
            "one of 20 waiters cancelled: answers",
            answers,
            "",
            "20 waiters, the first one cancelled",
            19,
            "==",
        ),
        Measure("one of 20 waiters cancelled: computes", computes, "", "the same", 1, "=="),
    ]


def rules(count: int) -> list[Rule]:
    """A third of them caps, as an orchestrator would: requests and tokens smoothed, tokens or cost capped."""
    return [
        Cap(name=f"cap-{n}", by=("user",), unit="tokens", limit=10**12)
        if n % 3 == 2
        else Rate(name=f"rate-{n}", by=("user",), unit="tokens", limit=10**6, per=60)
        for n in range(count)
    ]


async def reserving(url: str, admin_url: str, folder: Path) -> list[Measure]:
    client = connect(url)
    own = client.client()
    await client.set("okome:raw", msgspec.msgpack.encode(VALUE))
    ledger = Ledger(folder / "reserve.sqlite")
    calls: dict[str, Call] = {
        "raw": lambda: client.get("okome:raw"),
        "raw GET, a connection of its own": lambda: own.get("okome:raw"),
    }
    opened = []
    for count in (1, 3, 6, 9):
        budgets = Budgets(client, namespace=f"bench-{count}", rules=rules(count), ledger=ledger)
        opened.append(budgets)
        calls[f"okome {count}"] = lambda budgets=budgets: budgets.reserve({"user": "ann"}, {"tokens": 1})  # type: ignore[misc]
    storage = RedisStorage("async+" + admin_url, implementation="redispy")
    moving, item = MovingWindowRateLimiter(storage), RateLimitItemPerMinute(10**6)
    admin = Redis.from_url(admin_url)
    limiter = Limiter(await RedisBucket.init([PyrateRate(10**6, 60_000)], admin, "pyrate"))
    throttle = Throttled(
        using=RateLimiterType.GCRA.value, quota="1000000/m", store=RedisStore(server=admin_url)
    )
    # Each of them decides over one dimension; over three, and not all or nothing, by three calls.
    others: dict[str, Callable[[str], Awaitable[Any]]] = {
        "limits": lambda whom: moving.hit(item, whom),
        "pyrate-limiter": lambda whom: limiter.try_acquire_async(whom, blocking=False),
        "throttled-py": lambda whom: throttle.limit(whom),
    }

    async def thrice(one: Callable[[str], Awaitable[Any]]) -> None:
        for whom in ("ann", "ann large", "free"):
            await one(whom)

    for name, one in others.items():
        calls[f"{name}, 1 dimension"] = lambda one=one: one("ann")  # type: ignore[misc]
        calls[f"{name}, 3 dimensions by 3 calls"] = lambda one=one: thrice(one)  # type: ignore[misc]
    found = await ratios(calls, "raw", times=1000)
    for budgets in opened:
        await budgets.aclose()
    ledger.close()
    await own.aclose(close_connection_pool=False)
    await admin.aclose()
    await client.aclose()
    against = "one raw GET of redis-py, the same client and its pool"
    goals = {"okome 3": 1.8, "okome 9": 2.2}
    return [
        Measure(
            f"reserve: {name.removeprefix('okome ')} dimensions" if "okome" in name else f"reserve: {name}",
            ratio,
            "x",
            against,
            goals.get(name),
        )
        for name, ratio in found.items()
        if name != "raw"
    ]


def overshoot(server: RedisServer, url: str, folder: Path) -> Measure:
    ready = barrier(far.PROCESSES)
    path = str(folder / "overshoot.sqlite")
    processes = Processes(far.spend, [(url, path, ready)] * far.PROCESSES)
    try:
        spent = sum(processes.results())
    finally:
        processes.end()
    return Measure(
        "budget: overshoot of 4 processes", max(0, spent - far.CAP), "tokens", f"a cap of {far.CAP}", 0, "=="
    )


async def lost_state(server: RedisServer, url: str, folder: Path, losses: int = 50) -> Measure:
    client = connect(url)
    ledger = Ledger(folder / "lost.sqlite")
    cap = Cap(name="cap", by=("user",), unit="tokens", limit=1000)
    budgets = Budgets(client, namespace="lost", rules=[cap], ledger=ledger)
    detected, spent = 0, 0
    for _ in range(losses):
        decision = await budgets.reserve({"user": "ann"}, {"tokens": 3})
        if decision.lease is None or not await budgets.start(decision.lease):
            raise RuntimeError("within the cap, and refused")
        await budgets.commit(decision.lease)
        spent += 3
        server.admin.delete(*server.matching("okome:b1:{lost}:cap:*"))
        decision = await budgets.reserve({"user": "ann"}, {"tokens": 0})
        detected += decision.quotas[0].remaining == 1000 - spent
    await budgets.aclose()
    ledger.close()
    await client.aclose()
    return Measure("budget: lost state detected", detected, "", f"{losses} evictions", losses, "==")


def run() -> list[Measure]:
    port = free_port()
    with (
        RedisServer("--bind", "127.0.0.1", "--port", str(port)) as server,
        tempfile.TemporaryDirectory(prefix="okome-bench-") as name,
    ):
        url, admin_url = server.at(port)
        folder = Path(name)
        return [
            *asyncio.run(hits(url, admin_url)),
            *stampedes(server, url, admin_url),
            wake_up(url),
            long_compute(url),
            holder_killed(url),
            *asyncio.run(redis_killed()),
            *asyncio.run(failover()),
            *asyncio.run(cancelled(url)),
            *asyncio.run(reserving(url, admin_url, folder)),
            overshoot(server, url, folder),
            asyncio.run(lost_state(server, url, folder)),
        ]
