"""Streams through the cache: forwarded while they are kept, replayed chunk by chunk, never stored when cut
short.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Bytes, Cache, CachedStream, CachePolicy, Directives
from tests.unit.okome.waiting import PATIENCE, settled, told_to_wait, until

pytestmark = pytest.mark.anyio

PATIENT = CachePolicy(max_bytes=10_000, redis_timeout=30, write_timeout=30, lock_ttl=60, poll=1000)


class Source:
    """Streams: each chunk waits for a permit, unless `free`."""

    def __init__(self, *chunks: bytes, free: bool = True) -> None:
        self.chunks = chunks
        self.calls = 0
        self.closed = 0
        self.permits = asyncio.Semaphore(10**6 if free else 0)
        self.error: Exception | None = None

    async def __call__(self) -> AsyncIterator[bytes]:
        self.calls += 1
        try:
            for chunk in self.chunks:
                await self.permits.acquire()
                yield chunk
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1


@pytest.fixture
async def cache(redis: Redis) -> AsyncIterator[Cache[bytes]]:
    async with Cache(redis, namespace="streams", codec=Bytes(), policy=PATIENT) as cache:
        yield cache


async def read(stream: CachedStream) -> list[bytes]:
    return [chunk async for chunk in stream]


async def test_forwarded_then_replayed_chunk_by_chunk(cache: Cache[bytes]) -> None:
    source = Source(b"a", b"", b"bc", b"d")
    first = await cache.stream("k", source, complete=bool)
    assert first.headers()["Cache-Status"] == "okome; fwd=uri-miss; stored"
    assert await read(first) == [b"a", b"", b"bc", b"d"]
    await settled(cache)
    again = await cache.stream("k", source, complete=bool)
    assert again.headers()["X-OKOME-Cache"] == "HIT"
    assert await read(again) == [b"a", b"", b"bc", b"d"]
    assert (source.calls, source.closed) == (1, 1)


async def test_the_first_chunk_is_out_before_the_second_exists(cache: Cache[bytes]) -> None:
    source = Source(b"a", b"b", free=False)
    source.permits.release()
    async with asyncio.timeout(PATIENCE):
        stream = await cache.stream("k", source, complete=bool)
        assert await anext(stream) == b"a"
        source.permits.release()
        assert await read(stream) == [b"b"]


async def test_many_readers_share_one_source_and_each_gets_all(cache: Cache[bytes]) -> None:
    source = Source(b"a", b"b", b"c", free=False)
    source.permits.release()
    async with asyncio.timeout(PATIENCE):
        first = await cache.stream("k", source, complete=bool)
        assert await anext(first) == b"a"
        others = [await cache.stream("k", source, complete=bool) for _ in range(5)]
        assert {stream.headers()["X-OKOME-Cache"] for stream in others} == {"COALESCED"}
        readers = [asyncio.create_task(read(stream)) for stream in others]
        for _ in range(2):
            source.permits.release()
        assert await asyncio.gather(*readers) == [[b"a", b"b", b"c"]] * 5
    assert source.calls == 1


async def two_readers(cache: Cache[bytes], source: Source) -> tuple[CachedStream, CachedStream]:
    first = await cache.stream("k", source, complete=bool)
    return first, await cache.stream("k", source, complete=bool)


async def test_a_reader_that_leaves_hurts_nobody_and_the_last_one_stops_the_source(
    cache: Cache[bytes],
) -> None:
    source = Source(b"a", b"b", free=False)
    source.permits.release()
    async with asyncio.timeout(PATIENCE):
        one, two = await two_readers(cache, source)
        assert (await anext(one), await anext(two)) == (b"a", b"a")
        await one.aclose()
        assert source.closed == 0
        await two.aclose()
        await settled(cache)
    assert source.closed == 1
    source.permits = asyncio.Semaphore(100)
    assert (await cache.stream("k", source, complete=bool)).headers()["X-OKOME-Cache"] == "MISS"


async def test_a_stream_closed_before_its_first_chunk_is_left_once(cache: Cache[bytes]) -> None:
    source = Source(b"a", b"b", free=False)
    source.permits.release()
    async with asyncio.timeout(PATIENCE):
        one, two = await two_readers(cache, source)
        for _ in range(2):
            await one.aclose()
        assert source.closed == 0
        await two.aclose()
        await settled(cache)
    assert source.closed == 1


async def test_a_stream_that_breaks_is_delivered_so_far_and_never_stored(cache: Cache[bytes]) -> None:
    source = Source(b"a", b"b")
    source.error = ConnectionResetError("gone")
    stream = await cache.stream("k", source, complete=bool)
    assert [await anext(stream), await anext(stream)] == [b"a", b"b"]
    with pytest.raises(ConnectionResetError):
        await anext(stream)
    await settled(cache)
    source.error = None
    assert (await cache.stream("k", source, complete=bool)).headers()["X-OKOME-Cache"] == "MISS"


async def test_an_error_before_the_first_chunk_is_raised_at_once(cache: Cache[bytes]) -> None:
    source = Source()
    source.error = ValueError("refused")
    with pytest.raises(ValueError, match="refused"):
        await cache.stream("k", source, complete=bool)


@pytest.mark.parametrize("why", ["no-store", "too large to join"])
async def test_an_error_before_the_first_chunk_of_a_bypass_is_raised_at_once(
    cache: Cache[bytes], why: str
) -> None:
    """While the caller can still answer with its status."""
    refused = Source()
    refused.error = ValueError("refused")
    large = await cache.stream("k", Source(*[bytes(5_000)] * 100), complete=bool)
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):
            await anext(large)
    with pytest.raises(ValueError, match="refused"):
        await cache.stream("k", refused, directives=Directives(no_store=why == "no-store"), complete=bool)
    assert refused.closed == refused.calls == 1
    assert cache.counts["bypass"] == 0
    await large.aclose()


async def test_what_is_not_complete_is_not_stored(cache: Cache[bytes]) -> None:
    """A connection that ends early looks like an end; only the content tells."""
    source = Source(b"data: 1", b"data: 2")
    stream = await cache.stream("k", source, complete=lambda chunks: chunks[-1] == b"[DONE]")
    assert len(await read(stream)) == 2
    await settled(cache)
    assert cache.counts["cut_short"] == 1
    source.chunks += (b"[DONE]",)
    again = await cache.stream("k", source, complete=lambda chunks: chunks[-1] == b"[DONE]")
    assert again.headers()["X-OKOME-Cache"] == "MISS"


async def test_what_complete_means_must_be_told(cache: Cache[bytes]) -> None:
    with pytest.raises(TypeError, match="complete"):
        await cache.stream("k", Source(b"a"))  # type: ignore[call-arg]  # on purpose


async def test_an_empty_stream_is_empty_and_not_stored(cache: Cache[bytes]) -> None:
    source = Source()
    for _ in range(2):
        assert await read(await cache.stream("k", source, complete=bool)) == []
        await settled(cache)
    assert source.calls == 2


async def test_too_large_is_passed_through_whole(cache: Cache[bytes]) -> None:
    source = Source(*(bytes([n]) * 5_000 for n in range(200)))
    assert await read(await cache.stream("k", source, complete=bool)) == list(source.chunks)
    await settled(cache)
    assert cache.counts["oversize"] == 1
    again = await cache.stream("k", source, complete=bool)
    assert again.headers()["X-OKOME-Cache"] == "BYPASS"
    assert await read(again) == list(source.chunks)


async def test_a_huge_stream_is_not_kept_in_memory(cache: Cache[bytes]) -> None:
    """The source waits for a reader that is slow, once nothing is kept any more."""
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield bytes(10_000)

    async with asyncio.timeout(PATIENCE):
        stream = await cache.stream("k", endless, complete=bool)
        await asyncio.sleep(0.1)
        assert pulled < 100
        for _ in range(200):
            await anext(stream)
        assert pulled > 190
        await stream.aclose()
        await settled(cache)


async def test_another_process_replays_at_the_end(
    redis: Redis, cache: Cache[bytes], server: RedisServer
) -> None:
    source = Source(b"a", b"b", free=False)
    async with (
        asyncio.timeout(PATIENCE),
        Cache(redis, namespace="streams", codec=Bytes(), policy=PATIENT) as other,
    ):
        source.permits.release()
        mine = await cache.stream("k", source, complete=bool)
        theirs = asyncio.create_task(other.stream("k", source, complete=bool))
        await told_to_wait(server)
        source.permits.release()
        assert await read(mine) == [b"a", b"b"]
        stream = await theirs
        assert stream.headers()["X-OKOME-Cache"] == "COALESCED"
        assert await read(stream) == [b"a", b"b"]
    assert source.calls == 1


async def test_no_store_and_values_apart(cache: Cache[bytes]) -> None:
    source = Source(b"a")
    bypass = await cache.stream("k", source, directives=Directives(no_store=True), complete=bool)
    assert (bypass.headers()["X-OKOME-Cache"], await read(bypass)) == ("BYPASS", [b"a"])
    await cache.put("k", b"a value")
    assert (await cache.stream("k", source, complete=bool)).headers()["X-OKOME-Cache"] == "MISS"
    await settled(cache)
    await cache.invalidate("k")
    assert await cache.get("k") is None
    assert (await cache.stream("k", source, complete=bool)).headers()["X-OKOME-Cache"] == "MISS"


async def test_a_waiting_caller_that_is_cancelled_leaves(cache: Cache[bytes]) -> None:
    source = Source(b"a", free=False)
    caller = asyncio.create_task(cache.stream("k", source, complete=bool))
    await until(lambda: source.calls == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await settled(cache)
    assert source.closed == source.calls == 1


async def test_what_was_cut_short_is_given_to_nobody_who_comes_later(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while Redis is still being told to give up the lock."""
    told = asyncio.Event()
    async with Cache(redis, namespace="cut", codec=Bytes(), policy=PATIENT) as cache:
        release = cache._store.release

        async def slowly(*arguments: object) -> None:
            await told.wait()
            await release(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(cache._store, "release", slowly)
        source = Source(b"half")
        first = await cache.stream("k", source, complete=lambda _: False)
        assert b"".join([chunk async for chunk in first]) == b"half"
        again = asyncio.create_task(cache.stream("k", source, complete=bool))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not again.done()
        told.set()
        async with asyncio.timeout(PATIENCE):
            assert b"".join([chunk async for chunk in await again]) == b"half"
        assert source.calls == 2
