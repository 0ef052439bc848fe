"""What is lost or late on the way to Redis."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.redis_server import RedisServer
from okome import Bytes, Cache, CachePolicy, Status, connect
from tests.unit.okome.proxy import Proxy
from tests.unit.okome.test_cache_failures import Origin
from tests.unit.okome.waiting import PATIENCE, settled

pytestmark = pytest.mark.anyio


async def test_answers_cut_off_after_the_command_was_carried_out(server: RedisServer, tmp_path: Path) -> None:
    """The retried script finds its own lock: no waiting for oneself until the lock's TTL is over."""
    async with Proxy(server.socket, tmp_path / "proxy.sock") as proxy:
        client = connect(server.url.replace(str(server.socket), str(proxy.listen)), timeout=30)
        policy = CachePolicy(lock_ttl=600, poll=600, redis_timeout=30, write_timeout=30)
        async with (
            asyncio.timeout(PATIENCE),
            Cache(client, namespace="p", codec=Bytes(), policy=policy) as cache,
        ):
            origin = Origin()
            origin.release.set()
            await cache.get_or_compute("warm", origin)  # the scripts are known
            for n in range(5):
                await settled(cache)  # or the write-back's second try is cut off, too
                proxy.cut_after_send = 1
                assert (await cache.get_or_compute(str(n), origin)).value == b"answer"
            assert origin.calls == 6
            assert cache.counts["unavailable"] == 0
        await client.aclose()


async def test_a_lock_whose_answer_was_lost_is_given_up(server: RedisServer, tmp_path: Path) -> None:
    """Twice lost, so that the caller goes on without Redis: others must not wait until the lock ends."""
    async with Proxy(server.socket, tmp_path / "proxy.sock") as proxy:
        urls = (server.url, server.url.replace(str(server.socket), str(proxy.listen)))
        near, far = (connect(url, timeout=30) for url in urls)
        policy = CachePolicy(lock_ttl=600, poll=600, breaker=0, redis_timeout=30, write_timeout=30)
        origin = Origin()
        origin.release.set()
        async with (
            asyncio.timeout(PATIENCE),
            Cache(far, namespace="p", codec=Bytes(), policy=policy) as one,
            Cache(near, namespace="p", codec=Bytes(), policy=policy) as other,
        ):
            await one.get_or_compute("warm", origin)  # the scripts are known
            await settled(one)
            proxy.cut_after_send = 2
            assert (await one.get_or_compute("k", origin)).status is Status.DEGRADED
            assert (await other.get_or_compute("k", origin)).status is Status.MISS
            assert one.counts["unavailable"] == 1
        for client in (near, far):
            await client.aclose()


async def test_a_slow_network_is_only_slow(server: RedisServer, tmp_path: Path) -> None:
    async with Proxy(server.socket, tmp_path / "proxy.sock") as proxy:
        proxy.delay = 0.05
        client = connect(server.url.replace(str(server.socket), str(proxy.listen)), timeout=30)
        policy = CachePolicy(redis_timeout=30, write_timeout=30)
        async with (
            asyncio.timeout(PATIENCE),
            Cache(client, namespace="p", codec=Bytes(), policy=policy) as cache,
        ):
            origin = Origin()
            origin.release.set()
            found = await asyncio.gather(*(cache.get_or_compute("k", origin) for _ in range(20)))
            assert origin.calls == 1
            assert Status.DEGRADED not in {cached.status for cached in found}
        await client.aclose()


async def test_a_server_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    """A value larger than all buffers on the way can't be sent to who does not read."""
    done = asyncio.Event()

    async def idle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    path = tmp_path / "socket"
    async with await asyncio.start_unix_server(idle, path, limit=1024):
        client = connect(f"unix://{path}", timeout=0.2)
        try:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(RedisTimeoutError, match="writing"):
                    await client.set("okome:large", b"x" * 32 * 1024 * 1024)
        finally:
            done.set()
            await client.aclose()


async def test_a_cancelled_send_is_cancelled_whenever_it_comes(redis: Redis) -> None:
    """At every step of the event loop on the way out; what is left of the connection serves the next."""
    await redis.set("okome:k", b"v")
    cancelled = 0
    for steps in range(12):
        get = asyncio.ensure_future(redis.get("okome:k"))
        for _ in range(steps):
            await asyncio.sleep(0)
        if get.cancel():
            with pytest.raises(asyncio.CancelledError):
                await get
            cancelled += 1
        assert await redis.get("okome:k") == b"v"
    assert cancelled > 3
