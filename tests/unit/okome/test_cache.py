"""The cache against a real Redis, under the ACL of CN01: hits, misses, and those who wait together."""

import asyncio
import contextlib

import pytest

from bench.redis_server import RedisServer
from okome import ComputeCancelledError, Directives, NotCachedError, Status
from tests.unit.okome.caches import Answer, Later, Open, Origin, paused
from tests.unit.okome.waiting import PATIENCE, joined, owner_and_waiter, settled, until

pytestmark = pytest.mark.anyio


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


async def test_what_was_stored_by_a_clock_that_was_set_back_since_is_no_hit(
    open_cache: Open, origin: Origin, time: Later
) -> None:
    async with open_cache() as cache:
        time.passed = 3600
        await cache.get_or_compute("k", origin)
        await settled(cache)
        time.passed = 0
        again = await cache.get_or_compute("k", origin)
        await settled(cache)
        then = await cache.get_or_compute("k", origin)
    assert (again.status, then.status, origin.calls) == (Status.MISS, Status.HIT, 2)
    assert then.value == Answer("answer 2")


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
        owner, waiter = await owner_and_waiter(one, two, origin, server)
        assert (await owner).status is Status.MISS
        assert (await waiter).status is Status.COALESCED
    assert origin.calls == 1
    assert two.counts["polls"] == 0


async def test_a_lost_message_is_found_by_polling(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as one, open_cache(poll=0.05) as two:
        two._store._wakes.wake = lambda name: None  # type: ignore[method-assign]  # as if the message never came
        owner, waiter = await owner_and_waiter(one, two, origin, server)
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


async def test_who_waits_when_the_cache_is_closed_is_told(open_cache: Open, origin: Origin) -> None:
    cache = open_cache()
    origin.release.clear()
    waiter = asyncio.create_task(cache.get_or_compute("k", origin))
    await origin.started.wait()
    await cache.aclose()
    with pytest.raises(ComputeCancelledError, match="closed"):
        await waiter
    assert origin.cancelled == 1


async def test_so_is_who_waits_for_what_was_forgotten(open_cache: Open, origin: Origin) -> None:
    """Told so, and not cancelled: nobody cancelled it."""
    cache = open_cache(write_timeout=0.05)
    origin.release.clear()
    waiter = asyncio.create_task(cache.get_or_compute("k", origin))
    await origin.started.wait()
    await cache.invalidate("k")
    await cache.aclose()
    with pytest.raises(ComputeCancelledError, match="closed"):
        await waiter


async def test_and_where_the_computation_takes_no_notice(open_cache: Open) -> None:
    """It is told at once: a computation that swallows cancellations may take as long as it likes."""
    cache, began, let_go = open_cache(write_timeout=0.05), asyncio.Event(), asyncio.Event()

    async def stubborn() -> Answer:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                began.set()
                await let_go.wait()
        return Answer("late")

    waiter = asyncio.create_task(cache.get_or_compute("k", stubborn))
    await began.wait()
    await cache.aclose()
    try:
        with pytest.raises(ComputeCancelledError, match="closed"):
            async with asyncio.timeout(PATIENCE):
                await waiter
    finally:
        let_go.set()


async def test_nobody_joins_what_was_computed_before_a_put(
    open_cache: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no message is heard: it was put here."""
    monkeypatch.setattr("okome.wake.Wakes.start", lambda _: None)
    cache = open_cache()
    origin.release.clear()
    first = asyncio.create_task(cache.get_or_compute("k", origin))
    await origin.started.wait()
    assert await cache.put("k", Answer("put"))
    async with asyncio.timeout(PATIENCE):
        assert (await cache.get_or_compute("k", Origin())).value == Answer("put")
    origin.release.set()
    assert (await first).value == Answer("answer 1")


async def test_who_asks_in_a_loop_comes_to_a_hit(open_cache: Open, origin: Origin) -> None:
    """The loop has no other turn than those that the cache gives it."""
    cache = open_cache()
    for _ in range(100_000):
        if (await cache.get_or_compute("k", origin)).status is Status.HIT:
            break
    else:
        pytest.fail("it was never written back")
    assert origin.calls == 1
