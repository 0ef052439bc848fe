"""What the cache does when Redis is dead, hung, refusing or evicting, and when an owner is killed."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.cache_processes import LOCK_TTL, hold, stampede, take_over
from bench.processes import Processes, barrier, event
from bench.redis_server import RedisServer
from okome import (
    Bytes,
    Cache,
    CachePolicy,
    ComputeCancelledError,
    Directives,
    OverloadedError,
    Status,
    connect,
)
from okome.keys import value_name
from tests.unit.okome.waiting import PATIENCE, settled, told_to_wait, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(
    server: RedisServer, *, patience: float = 30.0, **policy: float
) -> AsyncIterator[Cache[bytes]]:
    """`patience`: seconds that a call to Redis may take. Who is dead says no at once, only who hangs does not."""
    client = connect(server.url, timeout=patience)
    options: dict[str, Any] = {
        "redis_timeout": patience,
        "write_timeout": patience,
        "breaker": 0.05,
        **policy,
    }
    settings = CachePolicy(**options)
    async with (
        asyncio.timeout(2 * PATIENCE),
        Cache(client, namespace="f", codec=Bytes(), policy=settings) as cache,
    ):
        yield cache
    await client.aclose()


class Origin:
    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.most = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self) -> bytes:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.set()
        await self.release.wait()
        self.running -= 1
        return b"answer"


async def test_redis_killed_in_the_middle_is_no_error(own_server: RedisServer) -> None:
    async with opened(own_server) as cache:
        origin = Origin()
        waiters = [asyncio.create_task(cache.get_or_compute("k", origin)) for _ in range(20)]
        await origin.started.wait()
        own_server.kill()
        origin.release.set()
        assert {(await waiter).value for waiter in waiters} == {b"answer"}
        assert origin.calls == 1


async def test_delivered_before_it_is_written_back(own_server: RedisServer) -> None:
    """A hung Redis takes the write's whole deadline; the callers don't wait for it."""
    async with opened(own_server, write_timeout=30.0) as cache:
        origin = Origin()
        waiter = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        own_server.pause()
        origin.release.set()
        assert (await waiter).value == b"answer"
        assert cache._tasks, "the write-back is still under way"
        own_server.resume()


async def test_waiters_elsewhere_compute_for_themselves_when_redis_dies(own_server: RedisServer) -> None:
    async with opened(own_server) as one, opened(own_server) as two:
        first, second = Origin(), Origin()
        owner = asyncio.create_task(one.get_or_compute("k", first))
        await first.started.wait()
        waiters = [asyncio.create_task(two.get_or_compute("k", second)) for _ in range(10)]
        await told_to_wait(own_server)
        assert second.calls == 0
        own_server.kill()
        await second.started.wait()
        first.release.set()
        second.release.set()
        assert (await owner).value == b"answer"
        assert {(await waiter).status for waiter in waiters} == {Status.DEGRADED}
        assert second.calls == 1


@pytest.mark.parametrize("state", ["dead", "hung"])
async def test_without_redis_it_fails_open_with_a_limit(own_server: RedisServer, state: str) -> None:
    patience = 0.3 if state == "hung" else 30.0
    async with opened(own_server, patience=patience, degraded_computes=3, degraded_wait=60) as cache:
        if state == "dead":
            own_server.kill()
        else:
            own_server.pause()
        origin = Origin()
        callers = [asyncio.create_task(cache.get_or_compute(str(n % 10), origin)) for n in range(40)]
        await until(lambda: origin.running == 3)
        origin.release.set()
        found = await asyncio.gather(*callers)
        assert {cached.status for cached in found} == {Status.DEGRADED}
        assert found[0].headers()["Cache-Status"] == "okome; fwd=uri-miss; detail=degraded"
        assert (origin.calls, origin.most) == (10, 3)
        if state == "hung":
            own_server.resume()


async def test_what_is_computed_inside_of_others_does_not_wait_for_their_turns(
    own_server: RedisServer,
) -> None:
    """As many outer ones as there are turns, each of which waits for an inner one."""
    async with opened(own_server, degraded_computes=2, degraded_wait=PATIENCE) as cache:
        own_server.kill()
        at_once, most = 0, 0

        async def inner() -> bytes:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            return b"inner"

        async def outer(n: int) -> bytes:
            found = await asyncio.gather(*[cache.get_or_compute(f"{n} {m}", inner) for m in range(3)])
            return found[0].value

        async with asyncio.timeout(PATIENCE / 2):
            found = await asyncio.gather(*[cache.get_or_compute(str(n), partial(outer, n)) for n in range(4)])
        assert {cached.value for cached in found} == {b"inner"}
        assert {cached.status for cached in found} == {Status.DEGRADED}
        assert most == 2


async def test_the_limit_has_a_time_limit_too(own_server: RedisServer) -> None:
    own_server.kill()
    async with opened(own_server, degraded_computes=1, degraded_wait=0.1) as cache:
        origin = Origin()
        first = asyncio.create_task(cache.get_or_compute("1", origin))
        await origin.started.wait()
        with pytest.raises(OverloadedError):
            await cache.get_or_compute("2", origin)
        origin.release.set()
        assert (await first).status is Status.DEGRADED
        assert (await cache.get_or_compute("2", origin)).status is Status.DEGRADED


async def test_the_limit_is_for_what_is_never_cached_too(own_server: RedisServer) -> None:
    never = Directives(no_store=True)
    async with opened(own_server, degraded_computes=1, degraded_wait=0.1) as cache:
        origin = Origin()

        async def chunks() -> AsyncIterator[bytes]:
            yield await origin()

        def three() -> list[asyncio.Task[object]]:
            return [
                asyncio.create_task(cache.get_or_compute("k", origin, directives=never)),
                asyncio.create_task(cache.get_or_compute("k", origin, directives=never)),
                asyncio.create_task(cache.stream("k", chunks, directives=never, complete=bool)),
            ]

        callers = three()
        while origin.running < 3:  # noqa: ASYNC110  # with Redis there is no limit to them
            await asyncio.sleep(0.01)
        origin.release.set()
        await asyncio.gather(*callers)
        origin.release.clear()
        own_server.kill()
        while cache.available:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        callers = three()
        while sum(caller.done() for caller in callers) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert origin.running == 1
        origin.release.set()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(one) for one in found].count(OverloadedError) == 2
        stream = await cache.stream("k", chunks, directives=never, complete=bool)
        with pytest.raises(OverloadedError):
            await cache.get_or_compute("k", origin, directives=never)
        await stream.aclose()  # its place is free again
        assert (await cache.get_or_compute("k", origin, directives=never)).value == b"answer"


@contextmanager
def refusing(server: RedisServer, how: str) -> Iterator[None]:
    """Redis is there, and refuses to write."""
    admin = server.admin
    undo: Callable[[], object]
    if how == "OOM":
        admin.config_set("maxmemory", 1)
        undo = partial(admin.config_set, "maxmemory", 0)
    elif how == "READONLY":
        admin.replicaof("127.0.0.1", "1")  # nobody is there, and stale data is served
        undo = partial(admin.replicaof, "NO", "ONE")
    elif how == "MISCONF":
        admin.config_set("save", "3600 1")
        (server.socket.parent / "dump.rdb").mkdir()  # where the snapshot would go
        admin.bgsave()
        deadline = time.monotonic() + 20
        while admin.info("persistence")["rdb_last_bgsave_status"] != "err":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        undo = partial(admin.config_set, "save", "")
    else:
        admin.acl_setuser("okome", enabled=True, commands=["-evalsha", "-eval"])
        undo = partial(admin.acl_setuser, "okome", enabled=True, commands=["+evalsha", "+eval"])
    try:
        yield
    finally:
        undo()


@pytest.mark.parametrize("how", ["OOM", "READONLY", "MISCONF", "NOPERM"])
async def test_redis_that_refuses_to_write_is_read_all_the_same(own_server: RedisServer, how: str) -> None:
    async with opened(own_server, lock_ttl=600) as cache:
        origin = Origin()
        origin.release.set()
        assert (await cache.get_or_compute("k", origin)).status is Status.MISS
        await settled(cache)
        with refusing(own_server, how):
            for key in ("1", "2"):
                assert (await cache.get_or_compute(key, origin)).status is Status.DEGRADED
                assert (await cache.get_or_compute("k", origin)).status is Status.HIT
            await until(lambda: cache.available)  # READONLY has it subscribe anew
            assert cache.counts["unavailable"] == 0
            assert cache.counts["refused"] == 2
        assert (await cache.get_or_compute("1", origin)).status is Status.MISS


async def test_a_write_back_that_is_refused_gives_up_its_lock(own_server: RedisServer) -> None:
    async with opened(own_server, lock_ttl=600) as cache:
        origin = Origin()
        caller = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
        with refusing(own_server, "OOM"):
            origin.release.set()
            assert (await caller).value == b"answer"
            await settled(cache)
            assert own_server.matching("okome:*:l:*") == []
        assert (cache.counts["store_failed"], cache.counts["releases_failed"]) == (1, 0)


async def test_one_key_that_is_not_ours_hurts_no_other(own_server: RedisServer) -> None:
    async with opened(own_server) as cache:
        origin = Origin()
        origin.release.set()
        await cache.put("good", b"stored")
        await cache.put("bad", b"stored")
        (good,) = own_server.matching("okome:*:v:" + value_name("good"))
        (bad,) = own_server.matching("okome:*:v:" + value_name("bad"))
        assert good != bad
        own_server.admin.delete(bad)
        own_server.admin.rpush(bad, "a list")
        for _ in range(2):
            assert (await cache.get_or_compute("bad", origin)).status is Status.DEGRADED
            assert (await cache.get_or_compute("good", origin)).status is Status.HIT
        assert cache.counts["unavailable"] == 0


async def test_a_redis_that_loads_its_data_is_not_there_yet(tmp_path: Path) -> None:
    with RedisServer("--enable-debug-command", "yes") as server:
        async with opened(server, breaker=2.0) as cache:
            origin = Origin()
            origin.release.set()
            for n in range(20):
                await cache.put(str(n), os.urandom(2000))  # more than the interval below
            server.admin.config_set("key-load-delay", 100_000)  # us for each key
            server.admin.config_set("loading-process-events-interval-bytes", 1024)
            loading = asyncio.create_task(asyncio.to_thread(server.admin.execute_command, "DEBUG", "RELOAD"))
            while cache.available:
                assert not loading.done()
                await cache.get_or_compute("k", origin)
                await asyncio.sleep(0.01)
            assert (await cache.get_or_compute("1", origin)).value == b"answer"
            assert cache.counts["unavailable"] > 0
            await loading
            while (await cache.get_or_compute("1", origin)).status is not Status.HIT:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_it_comes_back_when_redis_does(own_server: RedisServer) -> None:
    async with opened(own_server) as cache:
        origin = Origin()
        origin.release.set()
        own_server.kill()
        assert (await cache.get_or_compute("k", origin)).status is Status.DEGRADED
        assert not await cache.invalidate("k")
        own_server.start()
        async with asyncio.timeout(PATIENCE):
            while (await cache.get_or_compute("k", origin)).status is not Status.HIT:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert cache.available


async def test_a_killed_owner_is_replaced(server: RedisServer) -> None:
    begun, waiting = event(), event()
    holder = Processes(hold, [(server.url, "k", begun)])
    waiter: Processes | None = None
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        waiter = Processes(take_over, [(server.url, "k", waiting)])
        assert await asyncio.to_thread(waiting.wait, 60)
        killed = time.monotonic()
        holder.end()
        (taken,) = await asyncio.to_thread(waiter.results)
        assert taken > killed - LOCK_TTL
    finally:
        holder.end()
        if waiter is not None:
            waiter.end()


async def test_four_processes_a_thousand_callers_one_compute(server: RedisServer) -> None:
    ready = barrier(4)
    processes = Processes(stampede, [("okome", server.url, ready)] * 4)
    try:
        results = await asyncio.to_thread(processes.results)
        calls = server.calls()
        # Without AUTH, which redis-py sends twice over a Unix socket.
        commands = sum(n for name, n in calls.items() if not name.startswith(("config", "info", "auth")))
        # A busy machine takes longer than a poll or a heartbeat: each poll ends in a PTTL, each beat in a PEXPIRE.
        commands -= 4 * (calls.get("pttl", 3) - 3) + 3 * calls.get("pexpire", 0)
    finally:
        processes.end()
    assert sum(computes for computes, _, _ in results) == 1
    assert sum(errors for _, errors, _ in results) == 0
    assert sum(len(latencies) for _, _, latencies in results) == 1000
    assert commands <= 60, calls


async def test_eviction_churn(own_server: RedisServer) -> None:
    """Anything may vanish at any time, locks and tags included: never a wrong value, never an error."""
    own_server.admin.config_set("maxmemory", "3mb")
    own_server.admin.config_set("maxmemory-policy", "allkeys-lru")
    async with opened(own_server) as cache:

        async def ask(n: int) -> None:
            value = random.Random(n).randbytes(20_000)  # noqa: S311  # repeatable, and can't be compressed

            async def compute() -> bytes:
                return value

            cached = await cache.get_or_compute(str(n), compute, tags=[f"t{n % 7}"])
            assert cached.value == value

        for _ in range(3):
            for start in range(0, 600, 50):
                await asyncio.gather(*(ask(n) for n in range(start, start + 50)))
        assert own_server.admin.info("stats")["evicted_keys"] > 100


async def test_closing_leaves_nothing_behind(redis: Redis) -> None:
    before = asyncio.all_tasks()
    cache = Cache(redis, namespace="close", codec=Bytes())
    async with cache:
        origin = Origin()
        waiter = asyncio.create_task(cache.get_or_compute("k", origin))
        await origin.started.wait()
    with pytest.raises(ComputeCancelledError):
        await waiter
    assert asyncio.all_tasks() <= before
