"""What the cache bench's processes do: each function is one process's whole life."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiocache
from aiocache.serializers import JsonSerializer
from cashews import Cache as Cashews
from dogpile.cache import make_region
from redis import BlockingConnectionPool as SyncPool
from redis.asyncio import BlockingConnectionPool, ConnectionPool

from bench.processes import Barrier
from okome import Budgets, Cache, CachePolicy, Cap, Ledger, Msgpack, Status, connect

PROCESSES = 4
CALLERS = 250
COMPUTE = 0.2  # s
LOCK_TTL = 2.0  # s
CAP = 1000  # tokens
PATIENCE = 15.0  # s, after which a caller of dogpile's counts as hung


async def stampede(library: str, url: str, ready: Barrier) -> tuple[int, int, list[float]]:
    """How often this process computed, its errors, and how long each caller waited (s)."""
    computes = 0

    async def compute() -> str:
        nonlocal computes
        computes += 1
        await asyncio.sleep(COMPUTE)
        return "answer"

    async def measured(call: Callable[[], Awaitable[Any]]) -> tuple[int, int, list[float]]:
        await asyncio.to_thread(ready.wait, 60)

        async def one() -> float:
            begin = time.monotonic()
            await call()
            return time.monotonic() - begin

        found = await asyncio.gather(*(one() for _ in range(CALLERS)), return_exceptions=True)
        latencies = [latency for latency in found if isinstance(latency, float)]
        return computes, CALLERS - len(latencies), latencies

    if library == "okome":
        client = connect(url)
        async with Cache(client, namespace="stampede", codec=Msgpack(str)) as cache:
            result = await measured(lambda: cache.get_or_compute("k", compute))
        await client.aclose()
        return result
    if library == "dogpile":
        return await dogpile(url, ready)
    if library == "cashews":
        cashews = Cashews()
        cashews.setup(url)
        cached = cashews(ttl=60, key="stampede", lock=True)(compute)
        result = await measured(cached)
        await cashews.close()
        return result
    decorator = aiocache.cached_stampede(lease=2, ttl=60, key="stampede")
    cached = decorator(compute)
    decorator.cache = aiocache_at(url, BlockingConnectionPool)
    return await measured(cached)


async def dogpile(url: str, ready: Barrier) -> tuple[int, int, list[float]]:
    """As `stampede`, with its distributed lock. It is not made for asyncio: its callers are threads. Those that
    have no answer within PATIENCE count as errors, and end with the process.
    """
    computes = 0
    region = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=60,
        arguments={
            "url": url,
            "distributed_lock": True,
            "lock_timeout": 10,
            "thread_local_lock": False,
            "connection_pool": SyncPool.from_url(url, max_connections=50, timeout=PATIENCE),
        },
    )

    def compute() -> str:
        nonlocal computes
        computes += 1
        time.sleep(COMPUTE)
        return "answer"

    await asyncio.to_thread(ready.wait, 60)
    latencies: list[float] = []

    def one() -> None:
        begin = time.monotonic()
        with suppress(Exception):  # counted: it is missing among the answers
            region.get_or_create("stampede", compute)
            latencies.append(time.monotonic() - begin)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
    found = list(latencies)
    return computes, CALLERS - len(found), found


def aiocache_at(url: str, pool: type[ConnectionPool]) -> Any:
    """aiocache takes no URL."""
    where = urlsplit(url)
    return aiocache.RedisCache(
        endpoint=where.hostname,
        port=where.port,
        password=where.password,
        serializer=JsonSerializer(),
        connection_pool_class=pool,
        connection_pool_kwargs={"username": where.username},
    )


async def wake_up(url: str, ready: Barrier, index: int, rounds: int) -> tuple[bool, dict[int, float]]:
    """Per round: when the computing ended (the first process) or when its value was there (the others)."""
    at: dict[int, float] = {}
    leads = index == 0
    client = connect(url)
    async with Cache(client, namespace="wake", codec=Msgpack(str)) as cache:
        for n in range(rounds):

            async def compute(n: int = n) -> str:
                await asyncio.to_thread(ready.wait, 60)  # everybody may ask now
                await asyncio.sleep(0.05)
                at[n] = time.monotonic()
                return "answer"

            async def unwanted() -> str:
                raise AssertionError("somebody else computes")

            if leads:
                await cache.get_or_compute(str(n), compute)
            else:
                await asyncio.to_thread(ready.wait, 60)
                await cache.get_or_compute(str(n), unwanted)
                at[n] = time.monotonic()
    await client.aclose()
    return leads, at


async def long_compute(url: str, ready: Barrier) -> int:
    computes = 0

    async def compute() -> str:
        nonlocal computes
        computes += 1
        await asyncio.sleep(3 * LOCK_TTL)
        return "answer"

    client = connect(url)
    async with Cache(
        client, namespace="long", codec=Msgpack(str), policy=CachePolicy(lock_ttl=LOCK_TTL)
    ) as cache:
        await asyncio.to_thread(ready.wait, 60)
        await asyncio.gather(*(cache.get_or_compute("k", compute) for _ in range(10)))
    await client.aclose()
    return computes


async def hold(url: str, key: str, begun: Any) -> None:
    """Takes the lock and keeps it until it is killed."""

    async def compute() -> str:
        begun.set()
        await asyncio.sleep(60)
        return "never"

    async with Cache(
        connect(url), namespace="hold", codec=Msgpack(str), policy=CachePolicy(lock_ttl=LOCK_TTL)
    ) as cache:
        await cache.get_or_compute(key, compute)


async def take_over(url: str, key: str, waiting: Any) -> float:
    """When (monotonic) it began to compute in the killed holder's place."""
    at = 0.0

    async def compute() -> str:
        nonlocal at
        at = time.monotonic()
        return "answer"

    client = connect(url)
    async with Cache(
        client, namespace="hold", codec=Msgpack(str), policy=CachePolicy(lock_ttl=LOCK_TTL)
    ) as cache:
        asking = asyncio.create_task(cache.get_or_compute(key, compute))
        await asyncio.sleep(0.2)  # until the lock was found taken
        waiting.set()
        found = await asking
    await client.aclose()
    if found.status is not Status.MISS:
        raise AssertionError(f"not computed here: {found}")
    return at


async def spend(url: str, ledger_path: str, ready: Barrier) -> int:
    """Tokens that this process was allowed to spend: all want more than there is."""
    ledger = Ledger(ledger_path)
    client = connect(url)
    cap = Cap(name="cap", by=("user",), unit="tokens", limit=CAP)
    budgets = Budgets(client, namespace="spend", rules=[cap], ledger=ledger)
    await asyncio.to_thread(ready.wait, 60)

    async def worker() -> int:
        spent = 0
        while True:
            decision = await budgets.reserve({"user": "ann"}, {"tokens": 7})
            if decision.lease is None:
                return spent
            if not await budgets.start(decision.lease):
                continue
            await budgets.commit(decision.lease, {"tokens": 5})
            spent += 5

    spent = sum(await asyncio.gather(*(worker() for _ in range(10))))
    await budgets.aclose()
    ledger.close()
    await client.aclose()
    return spent
