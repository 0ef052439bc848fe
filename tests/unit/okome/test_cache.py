"""The cache against a real Redis, under the ACL of CN01: what one process sees."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import (
    Bytes,
    Cache,
    CachePolicy,
    ComputeCancelledError,
    Directives,
    Msgpack,
    NotCachedError,
    RememberedError,
    Status,
    connect,
)
from okome.connection import Clock
from tests.unit.okome.waiting import PATIENCE, joined, settled, told_to_wait, until

pytestmark = pytest.mark.anyio


class Answer(msgspec.Struct, frozen=True):
    text: str


class Origin:
    """Counts its calls; each takes until `release` is set (at once, by default), then fails or answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.error: BaseException | None = None
        self.cancelled = 0

    async def __call__(self) -> Answer:
        self.calls += 1
        number = self.calls
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Answer(f"answer {number}")


class Later(Clock):
    """Redis's time when it was first asked for, and what a test lets pass: however long the test takes."""

    passed = 0.0
    _began: float | None = None

    def now(self) -> float:
        if self._began is None and self.known:
            self._began = super().now()
        return (super().now() if self._began is None else self._began) + self.passed


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def time() -> Later:
    return Later()


Open = Callable[..., Cache[Answer]]


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


async def test_miss_then_hit(open_cache: Open, origin: Origin, time: Later) -> None:
    async with open_cache() as cache:
        first = await cache.get_or_compute("k", origin)
        await settled(cache)
        time.passed += 0.5
        second = await cache.get_or_compute("k", origin)
    assert (first.status, second.status) == (Status.MISS, Status.HIT)
    assert first.value == second.value == Answer("answer 1")
    assert first.headers() == {"X-OKOME-Cache": "MISS", "Cache-Status": "okome; fwd=uri-miss; stored"}
    assert second.headers() == {
        "X-OKOME-Cache": "HIT",
        "Cache-Status": "okome; hit; ttl=299",
        "Age": "0",
    }


async def test_a_hit_is_one_get(open_cache: Open, origin: Origin, server: RedisServer) -> None:
    async with open_cache() as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        server.forget_calls()
        await cache.get_or_compute("k", origin)
        assert {name: n for name, n in server.calls().items() if not name.startswith("config")} == {"get": 1}


async def test_fifty_readers_of_one_tick_are_two_reads(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with open_cache() as cache:
        for n in range(50):
            await cache.put(str(n), Answer(str(n)))
        server.forget_calls()
        found = await asyncio.gather(*(cache.get_or_compute(str(n), origin) for n in range(50)))
        assert [cached.value.text for cached in found] == [str(n) for n in range(50)]
        calls = server.calls()
        assert (calls["get"], calls["mget"], origin.calls) == (1, 1, 0)


async def test_fifty_misses_in_a_process_are_one_compute(open_cache: Open, origin: Origin) -> None:
    async with open_cache() as cache:
        origin.release.clear()  # until all have asked, however busy the machine is
        asking = [asyncio.create_task(cache.get_or_compute("k", origin)) for _ in range(50)]
        await joined(cache, 50)
        origin.release.set()
        found = await asyncio.gather(*asking)
    assert origin.calls == 1
    assert sorted(cached.status for cached in found) == [Status.COALESCED] * 49 + [Status.MISS]
    collapsed = next(cached for cached in found if cached.status is Status.COALESCED)
    assert collapsed.headers()["Cache-Status"] == "okome; fwd=uri-miss; stored; collapsed"


async def test_a_waiter_in_another_process_is_woken_by_the_message(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    """`poll` is far longer than the test may take: only the message can wake it."""
    async with (
        asyncio.timeout(PATIENCE),
        open_cache(poll=1000, lock_ttl=1000) as one,
        open_cache(poll=1000) as two,
    ):
        origin.release.clear()
        owner = asyncio.create_task(one.get_or_compute("k", origin))
        await origin.started.wait()
        waiter = asyncio.create_task(two.get_or_compute("k", origin))
        await told_to_wait(server)
        origin.release.set()
        assert (await owner).status is Status.MISS
        assert (await waiter).status is Status.COALESCED
    assert origin.calls == 1
    assert two.counts["polls"] == 0


async def test_a_lost_message_is_found_by_polling(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as one, open_cache(poll=0.05) as two:
        two._store._wakes.wake = lambda name: None  # type: ignore[method-assign]  # as if the message never came
        origin.release.clear()
        owner = asyncio.create_task(one.get_or_compute("k", origin))
        await origin.started.wait()
        waiter = asyncio.create_task(two.get_or_compute("k", origin))
        await told_to_wait(server)
        origin.release.set()
        await owner
        assert (await waiter).status is Status.COALESCED
    assert origin.calls == 1
    assert two.counts["polls"] > 0


async def test_one_waiter_of_twenty_cancelled(open_cache: Open, origin: Origin) -> None:
    async with open_cache() as cache:
        origin.release.clear()
        waiters = [asyncio.create_task(cache.get_or_compute("k", origin)) for _ in range(20)]
        await origin.started.wait()
        waiters[0].cancel()  # the very one that began it
        await asyncio.sleep(0)
        origin.release.set()
        found = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert [cached.value for cached in found[1:]] == [Answer("answer 1")] * 19  # type: ignore[union-attr]
    assert (origin.calls, origin.cancelled) == (1, 0)


async def test_the_last_waiter_to_leave_stops_the_work_and_frees_the_lock(
    open_cache: Open, origin: Origin
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache(poll=1000, lock_ttl=1000) as one, open_cache() as two:
        origin.release.clear()
        waiter = asyncio.create_task(one.get_or_compute("k", origin))
        await origin.started.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await settled(one)
        assert origin.cancelled == 1
        origin.release.set()
        assert (await two.get_or_compute("k", origin)).status is Status.MISS


async def test_a_new_caller_does_not_join_what_was_abandoned(open_cache: Open, origin: Origin) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        origin.release.clear()
        waiter = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        origin.release.set()
        assert (await cache.get_or_compute("k", origin)).value == Answer("answer 2")


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def test_who_looks_for_a_new_value_keeps_no_forgotten_work_alive(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        origin.release.clear()
        first = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        await cache.invalidate("k")
        with paused(server):
            second = asyncio.create_task(cache.get_or_compute("k", origin))
            await asyncio.sleep(0)  # it is looking
            first.cancel()
            await until(lambda: origin.cancelled == 1)
        origin.release.set()
        assert (await second).value == Answer("answer 2")


@pytest.mark.parametrize("forgotten", ["invalidated", "replaced"])
async def test_who_is_expected_keeps_work_alive_only_until_it_is_forgotten(
    open_cache: Open, origin: Origin, server: RedisServer, forgotten: str
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        origin.release.clear()
        first = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        with paused(server):
            looking = asyncio.create_task(
                cache.get_or_compute("k", origin, directives=Directives(only_if_cached=True))
            )
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            for _ in range(5):
                await asyncio.sleep(0)
            assert origin.cancelled == 0
            if forgotten == "invalidated":
                last: asyncio.Task[object] = asyncio.create_task(cache.invalidate("k"))
            else:
                anew = cache.get_or_compute("k", origin, directives=Directives(no_cache=True))
                last = asyncio.create_task(anew)
            await until(lambda: origin.cancelled == 1)
        origin.release.set()
        await last
        with pytest.raises(NotCachedError):
            await looking


async def test_a_cancellation_is_not_lost_whenever_it_comes(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    """redis-py may lose one: nobody waits, and the work would go on, the lock be kept."""
    origin.release.clear()
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        for steps in range(60):
            for directives in (Directives(), Directives(no_cache=True)):
                waiter = asyncio.create_task(cache.get_or_compute("k", origin, directives=directives))
                for _ in range(steps):
                    await asyncio.sleep(0)
                while not waiter.done():  # the caller's own may meet redis-py, too
                    waiter.cancel()
                    await asyncio.wait({waiter}, timeout=0.1)
                await settled(cache)
        assert not cache._flights
        assert server.matching("okome:*:l:*") == []


async def test_cancellation_from_within_is_an_error_and_not_remembered(
    open_cache: Open, origin: Origin
) -> None:
    async with open_cache(negative_errors=(Exception,)) as cache:
        origin.error = asyncio.CancelledError()
        with pytest.raises(ComputeCancelledError):
            await cache.get_or_compute("k", origin)
        await settled(cache)
        origin.error = None
        assert (await cache.get("k")) is None


async def test_stale_while_revalidate(open_cache: Open, origin: Origin, time: Later) -> None:
    async with open_cache(fresh=10, stale=20) as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        time.passed += 15.5
        origin.release.clear()
        found = await asyncio.gather(*(cache.get_or_compute("k", origin) for _ in range(5)))
        assert {(cached.status, cached.value.text) for cached in found} == {(Status.STALE, "answer 1")}
        assert found[0].headers()["Cache-Status"] == "okome; hit; ttl=-6"
        origin.release.set()
        await settled(cache)
        assert (await cache.get_or_compute("k", origin)).value == Answer("answer 2")
    assert origin.calls == 2


async def test_early_recomputation_by_the_stored_compute_time(
    open_cache: Open, time: Later, redis: Redis, origin: Origin
) -> None:
    """XFetch: with a draw of 0.99 the head start is 4.6 compute times; with 0, none."""
    draw = 0.0
    async with open_cache(fresh=100, uniform=lambda: draw) as cache:
        await cache.put("k", Answer("slow"), compute=10.0)
        time.passed += 60
        assert (await cache.get_or_compute("k", origin)).status is Status.HIT
        await settled(cache)
        assert origin.calls == 0
        draw = 0.99
        assert (await cache.get_or_compute("k", origin)).value == Answer("slow")
        await settled(cache)
        assert (origin.calls, cache.counts["early"]) == (1, 1)
        assert (await cache.get_or_compute("k", origin)).value == Answer("answer 1")


async def test_stale_if_error_and_then_a_pause(open_cache: Open, origin: Origin, time: Later) -> None:
    async with open_cache(fresh=10, stale=0, stale_if_error=100, negative=5) as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        time.passed += 50
        origin.error = ValueError("down")
        for _ in range(3):  # one attempt; the others find that there was one
            cached = await cache.get_or_compute("k", origin)
            assert (cached.status, cached.value) == (Status.STALE, Answer("answer 1"))
            await settled(cache)
        assert origin.calls == 2
        time.passed += 6
        origin.error = None
        assert (await cache.get_or_compute("k", origin)).value == Answer("answer 3")


async def test_no_old_value_after_stale_if_error(open_cache: Open, origin: Origin, time: Later) -> None:
    async with open_cache(fresh=10, stale=0, stale_if_error=20) as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        time.passed += 31
        origin.error = ValueError("down")
        with pytest.raises(ValueError, match="down"):
            await cache.get_or_compute("k", origin)


async def test_a_listed_error_is_remembered_for_a_while_without_its_text(
    open_cache: Open, origin: Origin, time: Later, server: RedisServer
) -> None:
    async with open_cache(negative=60, negative_errors=(ValueError,)) as one, open_cache() as two:
        origin.error = ValueError("prompt: top secret")
        with pytest.raises(ValueError, match="secret"):
            await one.get_or_compute("k", origin)
        await settled(one)
        with pytest.raises(RememberedError) as remembered:
            await two.get_or_compute("k", origin)
        assert remembered.value.error_type == "ValueError"
        assert not any(b"secret" in server.value(key) for key in server.matching("*"))
        assert origin.calls == 1
        time.passed += 61
        origin.error = None
        assert (await two.get_or_compute("k", origin)).status is Status.MISS


async def test_a_failure_does_not_take_the_place_of_a_value(
    open_cache: Open, origin: Origin, time: Later
) -> None:
    async with open_cache(fresh=10, stale=20, stale_if_error=0, negative_errors=(ValueError,)) as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        origin.error = ValueError("down")
        with pytest.raises(ValueError, match="down"):
            await cache.get_or_compute("k", origin, directives=Directives(no_cache=True))
        await settled(cache)
        assert (await cache.get_or_compute("k", origin)).status is Status.HIT
        time.passed += 15
        for _ in range(2):  # the refresh in the background fails
            assert (await cache.get_or_compute("k", origin)).status is Status.STALE
            await settled(cache)
        assert origin.calls == 4


async def test_an_error_that_is_not_listed_is_not_remembered(open_cache: Open, origin: Origin) -> None:
    async with open_cache(negative_errors=(KeyError,)) as cache:
        origin.error = ValueError("once")
        with pytest.raises(ValueError, match="once"):
            await cache.get_or_compute("k", origin)
        origin.error = None
        assert (await cache.get_or_compute("k", origin)).value == Answer("answer 2")


async def test_waiters_elsewhere_learn_of_a_listed_failure_at_once(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        open_cache(negative_errors=(ValueError,), negative=60) as one,
        open_cache(poll=1000) as two,
    ):
        origin.release.clear()
        origin.error = ValueError("down")
        owner = asyncio.create_task(one.get_or_compute("k", origin))
        await origin.started.wait()
        waiter = asyncio.create_task(two.get_or_compute("k", origin))
        await told_to_wait(server)
        origin.release.set()
        with pytest.raises(ValueError, match="down"):
            await owner
        with pytest.raises(RememberedError):
            await waiter
    assert origin.calls == 1


async def test_directives(open_cache: Open, origin: Origin) -> None:
    async with open_cache() as cache:
        with pytest.raises(NotCachedError):
            await cache.get_or_compute("k", origin, directives=Directives(only_if_cached=True))
        assert origin.calls == 0
        bypass = await cache.get_or_compute("k", origin, directives=Directives(no_store=True))
        assert (bypass.status, bypass.headers()["Cache-Status"]) == (Status.BYPASS, "okome; fwd=bypass")
        assert await cache.get("k") is None
        await cache.get_or_compute("k", origin)
        await settled(cache)
        anew = await cache.get_or_compute("k", origin, directives=Directives(no_cache=True))
        assert (anew.status, anew.value) == (Status.MISS, Answer("answer 3"))
        await settled(cache)
        cached = await cache.get_or_compute("k", origin, directives=Directives(only_if_cached=True))
        assert (cached.status, cached.value) == (Status.HIT, Answer("answer 3"))


async def test_no_cache_never_gets_what_began_before_it(open_cache: Open, origin: Origin) -> None:
    """Nor is its answer overwritten by what began before it and ends after it."""
    async with open_cache() as cache:
        origin.release.clear()
        early = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        origin.started.clear()
        forced = asyncio.create_task(cache.get_or_compute("k", origin, directives=Directives(no_cache=True)))
        await origin.started.wait()
        origin.release.set()
        assert ((await early).value, (await forced).value) == (Answer("answer 1"), Answer("answer 2"))
        await settled(cache)
        stored = await cache.get("k")
        assert stored is not None
        assert stored.value == Answer("answer 2")
        assert cache.counts["lost"] == 1


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
        origin.release.clear()
        owner = asyncio.create_task(one.get_or_compute("k", origin))
        await origin.started.wait()
        waiter = asyncio.create_task(two.get_or_compute("k", origin))
        await told_to_wait(server)
        origin.release.set()
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


async def test_a_compute_of_three_lock_ttls(open_cache: Open, origin: Origin, server: RedisServer) -> None:
    async with open_cache(lock_ttl=1.5) as one, open_cache(lock_ttl=1.5, poll=0.1) as two:
        origin.release.clear()
        tasks = [asyncio.create_task(cache.get_or_compute("k", origin)) for cache in (one, two)]
        await until(lambda: server.calls().get("pexpire", 0) >= 9)  # heartbeats, three in each
        origin.release.set()
        await asyncio.gather(*tasks)
    assert origin.calls == 1


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


async def test_a_computation_has_a_time_limit(open_cache: Open, origin: Origin) -> None:
    async with open_cache(max_compute=0.05) as cache:
        origin.release.clear()
        with pytest.raises(TimeoutError):
            await cache.get_or_compute("k", origin)
        assert origin.cancelled == 1


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


async def test_who_waits_when_the_cache_is_closed_is_told(open_cache: Open, origin: Origin) -> None:
    cache = open_cache()
    origin.release.clear()
    waiter = asyncio.create_task(cache.get_or_compute("k", origin))
    await origin.started.wait()
    await cache.aclose()
    with pytest.raises(ComputeCancelledError, match="closed"):
        await waiter
    assert origin.cancelled == 1


async def test_a_computation_that_fails_while_it_is_stopped_is_no_news(open_cache: Open) -> None:
    cache = open_cache()
    started = asyncio.Event()
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    async def compute() -> Answer:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("while cleaning up") from None
        raise AssertionError

    waiter = asyncio.create_task(cache.get_or_compute("k", compute))
    await started.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await cache.aclose()
    gc.collect()
    await asyncio.sleep(0)
    assert unhandled == []
