"""The cache, after a server's clock that was an hour ahead was set right: nobody waits for that hour."""

import asyncio

import pytest

from bench.redis_server import RedisServer
from okome import Status
from tests.unit.okome.caches import Answer, Later, Open, Origin
from tests.unit.okome.waiting import PATIENCE, settled

pytestmark = pytest.mark.anyio
HOUR = 3600.0


async def test_a_failure_is_not_remembered_for_that_hour(
    open_cache: Open, origin: Origin, time: Later
) -> None:
    cache = open_cache(fresh=10, stale=0, stale_if_error=2 * HOUR, negative=2)
    await cache.get_or_compute("k", origin)
    await settled(cache)
    time.passed = HOUR
    origin.error = ConnectionError("gone")
    assert (await cache.get_or_compute("k", origin)).status is Status.STALE
    await settled(cache)
    assert (await cache.get_or_compute("k", origin)).status is Status.STALE
    assert origin.calls == 2, "quiet for the moment"
    time.passed = 20
    origin.error = None
    found = await cache.get_or_compute("k", origin)
    assert (found.status, found.value) == (Status.MISS, Answer("answer 3"))


async def test_the_lock_of_one_who_died_then_does_not_live_for_that_hour(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    cache = open_cache(lock_ttl=0.5)
    await cache.get_or_compute("k", origin)
    await settled(cache)
    (value,) = server.matching("okome:*:v:*")
    server.admin.delete(value)
    server.admin.set(value.replace(b":v:", b":l:"), b"x" * 16, px=int(HOUR * 1000))
    async with asyncio.timeout(PATIENCE):
        found = await cache.get_or_compute("k", origin)
    assert (found.status, origin.calls) == (Status.MISS, 2)
