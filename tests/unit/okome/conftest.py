"""What the library's tests ask for: a Redis that each of them finds empty, caches and budgets over it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Budgets, Cache, CachePolicy, Cap, Ledger, Msgpack, Rate, connect
from okome.connection import Clock
from tests.unit.okome.caches import Answer, Later, Open, Origin
from tests.unit.okome.spending import OpenBudgets


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def _server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(_server: RedisServer) -> RedisServer:
    _server.admin.flushall()
    _server.admin.script_flush()
    _server.admin.acl_log_reset()
    _server.forget_calls()
    return _server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """For tests that kill it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.url, timeout=30)  # a busy machine is no dead Redis
    yield client
    await client.aclose()
    assert server.denied() == []


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def time() -> Later:
    return Later()


@pytest.fixture
async def open_cache(redis: Redis, time: Later) -> AsyncIterator[Open]:
    """Caches over one Redis, each as another process would have it."""
    opened: list[Cache[Answer]] = []

    def make(
        client: Redis = redis,
        uniform: Callable[[], float] = lambda: 0.0,
        clock: Clock = time,
        **policy: object,
    ) -> Cache[Answer]:
        cache = Cache(
            client,
            namespace="test",
            codec=Msgpack(Answer),
            policy=CachePolicy(**{"redis_timeout": 30, "write_timeout": 30, "lock_ttl": 60, **policy}),  # type: ignore[arg-type]  # by name, from the tests
            clock=clock,
            uniform=uniform,
        )
        opened.append(cache)
        return cache

    yield make
    for cache in opened:
        await cache.aclose()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "spent.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
async def open_budgets(redis: Redis, ledger: Ledger) -> AsyncIterator[OpenBudgets]:
    async with AsyncExitStack() as stack:

        def make(*rules: Rate | Cap, **options: object) -> Budgets:
            settings = {"ledger": ledger, "namespace": "test", "redis": redis, "redis_timeout": 30, **options}
            budgets = Budgets(rules=rules, **settings)  # type: ignore[arg-type]  # by name
            stack.push_async_callback(budgets.aclose)
            return budgets

        yield make


@pytest.fixture
async def own_client(own_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(own_server.url, timeout=30)
    yield client
    await client.aclose()
