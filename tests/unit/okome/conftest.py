"""A Redis for all tests of this folder that ask for one; each test finds it empty."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import connect


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
