"""A computation's life: early, late, failing, too long, remembered."""

import asyncio
import gc

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import ComputeCancelledError, Directives, RememberedError, Status
from tests.unit.okome.caches import Answer, Later, Open, Origin
from tests.unit.okome.waiting import PATIENCE, owner_and_waiter, settled, until

pytestmark = pytest.mark.anyio


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


class Unusual(BaseException):  # it is none
    """As test frameworks have them."""


async def test_what_is_no_exception_comes_as_it_is(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    """And not as a cancellation, which nobody has sent."""
    async with open_cache() as cache:
        origin.error = Unusual()
        with pytest.raises(Unusual):
            await cache.get_or_compute("k", origin)
        await settled(cache)
        assert server.matching("okome:*:[vl]:*") == []


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
        origin.error = ValueError("down")
        owner, waiter = await owner_and_waiter(one, two, origin, server)
        with pytest.raises(ValueError, match="down"):
            await owner
        with pytest.raises(RememberedError):
            await waiter
    assert origin.calls == 1


async def test_a_compute_of_three_lock_ttls(open_cache: Open, origin: Origin, server: RedisServer) -> None:
    async with open_cache(lock_ttl=1.5) as one, open_cache(lock_ttl=1.5, poll=0.1) as two:
        origin.release.clear()
        tasks = [asyncio.create_task(cache.get_or_compute("k", origin)) for cache in (one, two)]
        await until(lambda: server.calls().get("pexpire", 0) >= 9)  # heartbeats, three in each
        origin.release.set()
        await asyncio.gather(*tasks)
    assert origin.calls == 1


async def test_a_computation_has_a_time_limit(open_cache: Open, origin: Origin) -> None:
    async with open_cache(max_compute=0.05) as cache:
        origin.release.clear()
        with pytest.raises(TimeoutError):
            await cache.get_or_compute("k", origin)
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
