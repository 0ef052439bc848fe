"""What lies in Redis, and when it is forgotten: tags, invalidations, puts, sizes, locks, clocks."""

import asyncio
import os
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Bytes, Cache, CachePolicy, Directives, Status, connect
from okome.connection import Clock
from tests.unit.okome.caches import Answer, Open, Origin
from tests.unit.okome.waiting import PATIENCE, owner_and_waiter, settled, until

pytestmark = pytest.mark.anyio


async def test_invalidate(open_cache: Open, origin: Origin) -> None:
    async with open_cache() as one, open_cache() as two:
        await one.get_or_compute("k", origin)
        await settled(one)
        assert await two.invalidate("k")
        assert await one.get("k") is None


async def test_what_is_computed_during_an_invalidation_is_not_stored(
    open_cache: Open, origin: Origin
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache(poll=1000) as one, open_cache(poll=1000) as two:
        for forget, name in ((two.invalidate, "k"), (two.invalidate_tag, "t")):
            origin.release.clear()
            origin.started.clear()
            before = asyncio.create_task(one.get_or_compute("k", origin, tags=["t"]))
            await origin.started.wait()
            assert await forget(name)
            await until(lambda: not one._flights)  # the message has come
            after = asyncio.create_task(one.get_or_compute("k", origin, tags=["t"]))
            origin.release.set()
            old, new = await asyncio.gather(before, after)
            assert old.value != new.value
            await settled(one)
            stored = await two.get("k")
            assert stored is not None
            assert stored.value == new.value
            await two.invalidate("k")
    assert one.counts["lost"] == 2


async def test_tags(open_cache: Open, origin: Origin, server: RedisServer) -> None:
    async with open_cache() as one, open_cache() as two:
        await one.get_or_compute("k", origin, tags=["model:a", "index:7"])
        await settled(one)
        server.forget_calls()
        hit = await two.get_or_compute("k", origin, tags=["model:a", "index:7"])
        assert hit.status is Status.HIT
        assert server.calls().get("mget") == 1  # the value and its tags, in one command
        assert await one.get("k") is not None  # tags that the caller does not name are looked up
        await one.invalidate_tag("index:7")
        assert await two.get("k") is None
        assert await two.get("k", tags=["model:a"]) is None
        assert (await two.get_or_compute("k", origin, tags=["model:a", "index:7"])).status is Status.MISS


async def test_an_evicted_tag_does_not_bring_back_what_it_invalidated(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with open_cache() as cache:
        await cache.get_or_compute("old", origin, tags=["t"])
        await settled(cache)
        await cache.invalidate_tag("t")
        server.admin.delete(*server.matching("okome:*:t:*"))
        await cache.get_or_compute("new", origin, tags=["t"])
        await settled(cache)
        assert await cache.get("old") is None
        assert await cache.get("new") is not None


async def test_too_large_is_passed_through_and_counted(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        open_cache(max_bytes=10) as one,
        open_cache(max_bytes=10, poll=1000) as two,
    ):
        owner, waiter = await owner_and_waiter(one, two, origin, server)
        first, second = await asyncio.gather(owner, waiter)
        assert (first.status, first.stored, second.status) == (Status.MISS, False, Status.BYPASS)
        await settled(one)
        third = await two.get_or_compute("k", origin)  # nobody waits for anybody any more
        assert (third.status, origin.calls) == (Status.BYPASS, 3)
        assert await two.get("k") is None
    assert one.counts["oversize"] == 1


async def test_eight_megabytes_go_through(redis: Redis) -> None:
    blob = os.urandom(8 * 1024 * 1024)
    patient = CachePolicy(redis_timeout=30, write_timeout=30)  # on a busy machine, too
    async with Cache(redis, namespace="blobs", codec=Bytes(), policy=patient) as cache:
        assert await cache.put("k", blob)
        found = await cache.get("k")
        assert found is not None
        assert found.value == blob
        assert not await cache.put("k", blob + b"x")
    assert cache.counts["oversize"] == 1


async def test_script_flush(open_cache: Open, origin: Origin, server: RedisServer) -> None:
    async with open_cache() as cache:
        await cache.get_or_compute("a", origin)
        await settled(cache)
        server.admin.script_flush()
        assert (await cache.get_or_compute("b", origin)).status is Status.MISS
        server.admin.script_flush()
        await settled(cache)
        assert (await cache.get_or_compute("b", origin)).status is Status.HIT


async def test_who_lost_the_lock_delivers_and_does_not_store(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with open_cache() as cache:
        origin.release.clear()
        task = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        server.admin.set(server.matching("okome:*:l:*")[0], "another owner")
        origin.release.set()
        assert (await task).value == Answer("answer 1")
        await settled(cache)
        assert await cache.get("k") is None
        assert cache.counts["lost"] == 1


async def test_two_clocks(open_cache: Open, origin: Origin) -> None:
    """An hour apart: age and freshness are by Redis's time."""
    loop_time = asyncio.get_running_loop().time
    async with open_cache(fresh=1800, stale=0, stale_if_error=0) as one:
        late = open_cache(clock=Clock(lambda: loop_time() + 3600), fresh=1800, stale=0, stale_if_error=0)
        async with late:
            await one.get_or_compute("k", origin)
            await settled(one)
            hit = await late.get_or_compute("k", origin)
            assert hit.status is Status.HIT
            assert hit.age < 1800


async def test_a_client_that_decodes_is_refused(server: RedisServer) -> None:
    client = Redis.from_url(server.url, decode_responses=True)
    with pytest.raises(ValueError, match="decode_responses"):
        Cache(client, namespace="n", codec=Bytes())
    await client.aclose()


@pytest.mark.parametrize("namespace", ["", "a b", "{x}", "x" * 65, "a:b", "é"])
async def test_a_bad_namespace_is_refused(redis: Redis, namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Cache(redis, namespace=namespace, codec=Bytes())


async def test_hammered_pool_never_raises(server: RedisServer) -> None:
    """500 concurrent reads over 4 connections: they wait for one another."""
    client = connect(server.url, max_connections=4)
    async with Cache(client, namespace="test", codec=Bytes()) as cache:
        found = await asyncio.gather(*(cache.get(str(n)) for n in range(500)))
        assert found == [None] * 500
        assert cache.counts["unavailable"] == 0
    await client.aclose()


async def test_a_cancelled_put_leaves_no_lock(
    redis: Redis, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock already while the value is packed, or on its way."""
    writing, packed, written = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with Cache(redis, namespace="put", codec=Bytes(), policy=CachePolicy(lock_ttl=60)) as cache:
        commit = cache._store.commit

        async def slowly(*arguments: Any, **options: Any) -> bool:
            writing.set()
            await packed.wait()
            stored = await commit(*arguments, **options)
            written.set()
            return stored

        monkeypatch.setattr(cache._store, "commit", slowly)
        put = asyncio.create_task(cache.put("k", b"value"))
        await writing.wait()
        assert server.matching("okome:c1:{put}:l:*")
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        packed.set()
        async with asyncio.timeout(PATIENCE):
            await written.wait()
        assert not server.matching("okome:c1:{put}:l:*")


async def test_a_put_is_seen_by_whoever_comes_after_it(open_cache: Open, origin: Origin) -> None:
    """Here and in another process, though what is older is still being computed there."""
    here, there = open_cache(), open_cache()
    other = Origin()
    origin.release.clear()
    other.release.clear()
    first = asyncio.create_task(here.get_or_compute("k", origin))
    await origin.started.wait()
    forced = Directives(no_cache=True)
    second = asyncio.create_task(there.get_or_compute("k", other, directives=forced))
    await other.started.wait()
    assert await here.put("k", Answer("put"))
    async with asyncio.timeout(PATIENCE):
        assert (await here.get_or_compute("k", Origin())).value == Answer("put")
        await until(lambda: not there._flights)  # it has heard
        assert (await there.get_or_compute("k", Origin())).value == Answer("put")
    origin.release.set()
    other.release.set()
    assert (await first).value == (await second).value == Answer("answer 1")
    found = await here.get("k")
    assert found is not None
    assert found.value == Answer("put")
