"""A key that is asked for inside its own computation is an error at once, whatever way it is asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Bytes, Cache, Cached, CircularError, Directives, Msgpack, connect
from okome.flight import computing
from tests.unit.okome.caches import PATIENT, Answer, Open, Origin
from tests.unit.okome.waiting import PATIENCE, settled

pytestmark = pytest.mark.anyio


async def test_a_key_asked_for_inside_its_own_computation_is_an_error_at_once(open_cache: Open) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:

        async def inside() -> Answer:
            return (await cache.get_or_compute("k", inside)).value

        with pytest.raises(CircularError):
            await cache.get_or_compute("k", inside)


async def test_in_a_task_that_it_starts_too(open_cache: Open) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:

        async def inside() -> Answer:
            (cached,) = await asyncio.gather(asyncio.create_task(cache.get_or_compute("k", inside)))
            return cached.value

        with pytest.raises(CircularError):
            await cache.get_or_compute("k", inside)


@pytest.mark.parametrize("first", ["a", "b"])
async def test_two_that_wait_for_each_other(open_cache: Open, first: str) -> None:
    """Each was begun for a caller of its own: no call stack has both."""
    begun = {"a": asyncio.Event(), "b": asyncio.Event()}
    async with asyncio.timeout(PATIENCE), open_cache() as cache:

        def of(key: str, other: str) -> Callable[[], Awaitable[Answer]]:
            async def compute() -> Answer:
                begun[key].set()
                await begun[other].wait()
                return (await cache.get_or_compute(other, of(other, key))).value

            return compute

        second = "b" if first == "a" else "a"
        tasks = [
            asyncio.create_task(cache.get_or_compute(key, of(key, other)))
            for key, other in ((first, second), (second, first))
        ]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [CircularError, CircularError]


async def test_by_way_of_another_cache_and_a_stream(open_cache: Open, redis: Redis) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        open_cache() as cache,
        Cache(redis, namespace="other", codec=Bytes(), policy=PATIENT) as other,
    ):

        async def compute() -> Answer:
            async with await other.stream("k", produce, complete=bool) as stream:
                return Answer(str([chunk async for chunk in stream]))

        async def produce() -> AsyncIterator[bytes]:
            yield (await cache.get_or_compute("k", compute)).value.text.encode()

        with pytest.raises(CircularError):
            await cache.get_or_compute("k", compute)


@pytest.mark.parametrize("client", ["the same", "another"])
async def test_by_way_of_another_cache_over_the_same_namespace(
    redis: Redis, server: RedisServer, client: str
) -> None:
    """It has flights of its own, but the lock is one."""
    theirs = redis if client == "the same" else connect(server.url, timeout=30)
    async with (
        asyncio.timeout(PATIENCE),
        Cache(redis, namespace="n", codec=Bytes(), policy=PATIENT) as one,
        Cache(theirs, namespace="n", codec=Bytes(), policy=PATIENT) as two,
    ):

        async def inside() -> bytes:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(two.get_or_compute("k", inside))
            return asked.result().value

        with pytest.raises(ExceptionGroup) as raised:
            await one.get_or_compute("k", inside)
        assert raised.group_contains(CircularError)
    if theirs is not redis:
        await theirs.aclose()


async def test_the_same_key_of_another_namespace_or_server_is_another(
    redis: Redis, own_client: Redis, origin: Origin
) -> None:
    """A cache in front of a cache."""
    async with (
        asyncio.timeout(PATIENCE),
        Cache(redis, namespace="n", codec=Msgpack(Answer), policy=PATIENT) as near,
        Cache(own_client, namespace="n", codec=Msgpack(Answer), policy=PATIENT) as far,
        Cache(redis, namespace="m", codec=Msgpack(Answer), policy=PATIENT) as other,
    ):

        async def from_far() -> Answer:
            return (await far.get_or_compute("k", from_other)).value

        async def from_other() -> Answer:
            return (await other.get_or_compute("k", origin)).value

        assert (await near.get_or_compute("k", from_far)).value == Answer("answer 1")


async def test_after_an_invalidation_and_anew_it_is_one_all_the_same(open_cache: Open) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        for directives in (Directives(), Directives(no_cache=True)):

            async def inside(directives: Directives = directives) -> Answer:
                await cache.invalidate("k")
                return (await cache.get_or_compute("k", inside, directives=directives)).value

            with pytest.raises(CircularError):
                await cache.get_or_compute("k", inside)


async def test_a_task_that_outlives_the_computation_may_ask(open_cache: Open, origin: Origin) -> None:
    tasks: list[asyncio.Task[Cached[Answer]]] = []
    flights: list[object] = []  # as it is while Redis is still being told
    over = asyncio.Event()
    async with asyncio.timeout(PATIENCE), open_cache() as cache:

        async def later() -> Cached[Answer]:
            await over.wait()
            return await cache.get_or_compute("k", origin)

        async def compute() -> Answer:
            flights.append(computing())
            tasks.append(asyncio.create_task(later()))
            return Answer("first")

        await cache.get_or_compute("k", compute)
        await settled(cache)
        await cache.invalidate("k")
        over.set()
        assert (await tasks[0]).value.text == "answer 1"


async def test_another_key_inside_a_computation_is_fine(open_cache: Open, origin: Origin) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:

        async def compute() -> Answer:
            one, two = await asyncio.gather(*[cache.get_or_compute("inner", origin) for _ in range(2)])
            assert one.value == two.value
            return one.value

        found = await asyncio.gather(*[cache.get_or_compute(key, compute) for key in ("a", "b")])
        assert [cached.value.text for cached in found] == ["answer 1", "answer 1"]
