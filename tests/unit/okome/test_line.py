"""Connections of one's own: one for the first, more for those who come at once, and never more than a share."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.redis_server import RedisServer
from okome import connect
from okome.connection import Line

pytestmark = pytest.mark.anyio

SLOW = ("BLPOP", "nothing", 0.3)  # is under way for so many seconds


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.admin_url, max_connections=12, timeout=10)
    yield client
    await client.aclose()


async def test_one_after_another_share_one_connection(client: Redis) -> None:
    line = Line(client)
    ids = {await line.execute_command("CLIENT", "ID") for _ in range(5)}
    assert len(ids) == 1
    assert await line.execute_command("GET", "nothing") is None
    await line.aclose()


async def test_those_at_once_have_one_each_up_to_the_share_and_all_are_answered(client: Redis) -> None:
    """Of 12 connections 3 for more than one, and one that each line has; the rest is the pool's."""
    pool, line, other = client.connection_pool, Line(client), Line(client)
    for one, own in ((line, 4), (other, 1)):
        await asyncio.gather(*(one.execute_command(*SLOW) for _ in range(6)))
        assert len(one._own) == own
        assert len(one._free) == own
    answers = await asyncio.gather(*(line.execute_command("ECHO", str(n)) for n in range(40)))
    assert answers == [str(n).encode() for n in range(40)]
    await line.aclose()
    await asyncio.gather(*(other.execute_command(*SLOW) for _ in range(6)))
    assert len(other._own) == 4, "what the first gave back is free again"
    await other.aclose()
    assert not pool._in_use_connections


async def test_another_clients_pool_gives_one(server: RedisServer) -> None:
    client = Redis.from_pool(BlockingConnectionPool.from_url(server.admin_url, max_connections=12))
    line = Line(client)
    await asyncio.gather(*(line.execute_command(*SLOW) for _ in range(6)))
    assert len(line._own) == 1
    await line.aclose()
    await client.aclose()


async def test_a_refusal_leaves_the_connection_and_a_broken_one_is_made_anew(
    client: Redis, server: RedisServer
) -> None:
    line = Line(client)
    first = await line.execute_command("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await line.execute_command("INCR", "a", "b")
    assert await line.execute_command("CLIENT", "ID") == first
    server.admin.client_kill_filter(_id=first)
    second = await line.execute_command("CLIENT", "ID")
    assert second != first
    await line.reconnect()
    assert await line.execute_command("CLIENT", "ID") not in (first, second)
    await line.aclose()


async def test_whoever_gives_up_leaves_no_answer_for_the_next(client: Redis) -> None:
    """Neither by cancellation, nor by a time limit of his own, nor by the client's."""
    line = Line(client)
    for n in range(3):
        late = asyncio.create_task(line.execute_command("BLPOP", "nothing", 1))
        await asyncio.sleep(0.05)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert await line.execute_command("ECHO", str(n)) == str(n).encode()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await line.execute_command("BLPOP", "nothing", 1)
    assert await line.execute_command("ECHO", "x") == b"x"
    connection = line._own[0].connection
    assert connection is not None
    connection.socket_timeout = 0.05
    with pytest.raises(RedisTimeoutError):
        await line.execute_command("BLPOP", "nothing", 1)
    assert await line.execute_command("ECHO", "y") == b"y"
    await line.aclose()
