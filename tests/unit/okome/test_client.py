"""Which clients the library takes, and from where."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, Sentinel

from bench.redis_server import RedisServer
from okome import (
    Budgets,
    Bytes,
    Cache,
    Cap,
    Directives,
    Ledger,
    connect,
    connect_cluster,
    connect_sentinel,
)

RULES = [Cap(name="cap", by=("user",), unit="tokens", limit=10)]
SENTINELS = [("127.0.0.1", 26379)]
USES: list[Callable[[Any], object]] = [
    lambda redis: Cache(redis, namespace="n", codec=Bytes()),
    lambda redis: Budgets(redis, rules=RULES),
]


@pytest.mark.parametrize("use", USES, ids=["cache", "budgets"])
@pytest.mark.parametrize(
    "client",
    [
        lambda: Redis(),
        lambda: Redis(max_connections=1000),
        lambda: Redis.from_pool(ConnectionPool(max_connections=10)),
        lambda: Redis.from_url("redis://host"),
        lambda: RedisCluster("host"),
        lambda: Sentinel(SENTINELS).master_for("okome"),  # type: ignore[no-untyped-call]  # redis-py's
    ],
    ids=["default", "large", "pool", "url", "cluster", "sentinel"],
)
def test_a_pool_that_refuses_is_said_so_at_once(
    client: Callable[[], object], use: Callable[[Any], object]
) -> None:
    with pytest.raises(ValueError, match="refuses commands when its connections are all in use"):
        use(client())


@pytest.mark.parametrize("use", USES, ids=["cache", "budgets"])
@pytest.mark.parametrize(
    "client",
    [
        lambda: connect("redis://host"),
        lambda: connect_cluster("redis://host"),
        lambda: connect_sentinel("redis://", SENTINELS, "okome"),
        lambda: Redis.from_pool(BlockingConnectionPool()),
    ],
    ids=["connect", "cluster", "sentinel", "blocking pool"],
)
def test_one_that_waits_is_taken(client: Callable[[], object], use: Callable[[Any], object]) -> None:
    use(client())


@pytest.mark.parametrize("use", USES, ids=["cache", "budgets"])
@pytest.mark.parametrize("client", [blocking.Redis(), "redis://host", None], ids=["blocking", "url", "none"])
def test_what_is_no_client_is_a_type_error(client: object, use: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"redis is a client of redis\.asyncio"):
        use(client)


def test_no_sentinel_is_none() -> None:
    with pytest.raises(ValueError, match="sentinels is not empty"):
        connect_sentinel("redis://", [], "okome")


async def _answer() -> bytes:
    return b"answer"


async def _chunks() -> Any:
    yield b"chunk"


CACHE_CALLS: dict[str, Callable[[Cache[bytes]], Any]] = {
    "get_or_compute": lambda cache: cache.get_or_compute("k", _answer),
    "no_store": lambda cache: cache.get_or_compute("k", _answer, directives=Directives(no_store=True)),
    "stream": lambda cache: cache.stream("k", _chunks, complete=bool),
    "get": lambda cache: cache.get("k"),
    "put": lambda cache: cache.put("k", b"x"),
    "invalidate": lambda cache: cache.invalidate("k"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "open": lambda cache: cache.__aenter__(),
    "close": lambda cache: cache.aclose(),
}


@pytest.mark.parametrize("call", CACHE_CALLS.values(), ids=CACHE_CALLS)
def test_a_cache_belongs_to_one_event_loop(server: RedisServer, call: Callable[[Cache[bytes]], Any]) -> None:
    """Whether the first one has ended, or runs in another thread and has a computation under way."""
    client = connect(server.url, timeout=30)
    cache = Cache(client, namespace="n", codec=Bytes())
    begun, done = threading.Event(), threading.Event()

    async def slow() -> bytes:
        begun.set()
        await asyncio.to_thread(done.wait, 60)
        return b"answer"

    async def first() -> None:
        async with cache:
            await cache.get_or_compute("k", slow)
        await client.aclose()

    async def second() -> None:
        async with asyncio.timeout(60):
            with pytest.raises(RuntimeError, match="this Cache belongs to the event loop of the first use"):
                await call(cache)

    other = threading.Thread(target=asyncio.run, args=(first(),))
    other.start()
    assert begun.wait(60)
    try:
        asyncio.run(second())
    finally:
        done.set()
        other.join(60)
    asyncio.run(second())


BUDGET_CALLS: dict[str, Callable[[Budgets, Any], Any]] = {
    "reserve": lambda budgets, lease: budgets.reserve({"user": "ann"}, {"tokens": 1}),
    "start": lambda budgets, lease: budgets.start(lease),
    "commit": lambda budgets, lease: budgets.commit(lease),
    "refund": lambda budgets, lease: budgets.refund(lease),
    "check": lambda budgets, lease: budgets.check(),
    "initialise": lambda budgets, lease: budgets.initialise(),
    "close": lambda budgets, lease: budgets.aclose(),
}


@pytest.mark.parametrize("call", BUDGET_CALLS.values(), ids=BUDGET_CALLS)
def test_budgets_belong_to_one_event_loop(
    server: RedisServer, tmp_path: Path, call: Callable[[Budgets, Any], Any]
) -> None:
    client, ledger = connect(server.url, timeout=30), Ledger(tmp_path / "ledger.sqlite")
    budgets = Budgets(client, rules=RULES, ledger=ledger, redis_timeout=30)

    async def first() -> object:
        lease = (await budgets.reserve({"user": "ann"}, {"tokens": 1})).lease
        assert lease is not None
        await budgets.aclose()
        await client.aclose()
        return lease

    async def second(lease: object) -> None:
        async with asyncio.timeout(60):
            with pytest.raises(RuntimeError, match="these Budgets belong to the event loop of the first use"):
                await call(budgets, lease)

    asyncio.run(second(asyncio.run(first())))
    ledger.close()
