"""What concerns one caller reaches that one alone: the next who waits leads, here and in other processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Bytes, Cache, CallerError, Msgpack, Status
from okome.flight import computing
from tests.unit.okome.caches import PATIENT, Answer, Later, Open, Origin
from tests.unit.okome.waiting import PATIENCE, joined, settled, told_to_wait, until

pytestmark = pytest.mark.anyio


class NotAllowedError(CallerError):
    """Somebody's own."""


class Door:
    """Lets in whom it knows, once it is open; then asks `origin`."""

    def __init__(self, origin: Origin, *known: str) -> None:
        self.origin = origin
        self.known = known
        self.open = asyncio.Event()
        self.asked: list[str] = []

    def of(self, user: str) -> Callable[[], Awaitable[Answer]]:
        async def compute() -> Answer:
            self.asked.append(user)
            await self.open.wait()
            if user not in self.known:
                raise NotAllowedError(user)
            return await self.origin()

        return compute


@pytest.fixture
def door(origin: Origin) -> Door:
    return Door(origin, "bob")


async def asking(cache: Cache[Answer], door: Door, *users: str, key: str = "k") -> list[asyncio.Task[object]]:
    """One after the other, until all wait for the one computation."""
    tasks: list[asyncio.Task[object]] = []
    for n, user in enumerate(users, 1):
        tasks.append(asyncio.create_task(cache.get_or_compute(key, door.of(user))))
        await joined(cache, n)
    return tasks


def told(outcomes: Sequence[object]) -> list[object]:
    """Of each: the value's text, or what was raised."""
    return [
        outcome.value.text if hasattr(outcome, "value") else f"{type(outcome).__name__}: {outcome}"
        for outcome in outcomes
    ]


async def test_who_may_not_is_told_and_the_next_one_leads(open_cache: Open, door: Door) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        tasks = await asking(cache, door, "ann", "bob", "cid")
        door.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert told(outcomes) == ["NotAllowedError: ann", "answer 1", "answer 1"]
        assert [getattr(outcome, "status", None) for outcome in outcomes] == [
            None,
            Status.MISS,
            Status.COALESCED,
        ]
        assert door.asked == ["ann", "bob"]
        assert cache.counts["handed_on"] == 1
        await settled(cache)
        assert (await cache.get_or_compute("k", door.of("ann"))).status is Status.HIT


async def test_in_a_task_group_of_his_own_too(open_cache: Open, door: Door) -> None:
    """It comes as a group; it is his all the same."""

    async def compute(user: str) -> Answer:
        async def asked() -> Answer:
            return await door.of(user)()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(asked())
        return task.result()

    async with asyncio.timeout(PATIENCE), open_cache(negative_errors=(Exception,), negative=60) as cache:
        tasks = []
        for n, user in enumerate(("ann", "bob", "cid"), 1):
            tasks.append(asyncio.create_task(cache.get_or_compute("k", partial(compute, user))))
            await joined(cache, n)
        door.open.set()
        ann, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ann, ExceptionGroup)
        assert told(ann.exceptions) == ["NotAllowedError: ann"]
        assert told(others) == ["answer 1", "answer 1"]


async def test_each_who_may_not_is_told_his_own_and_nothing_stays(
    open_cache: Open, door: Door, server: RedisServer
) -> None:
    users = [f"user {n}" for n in range(50)]
    async with asyncio.timeout(PATIENCE), open_cache(negative_errors=(Exception,), negative=60) as cache:
        tasks = await asking(cache, door, *users)
        server.forget_calls()
        door.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert told(outcomes) == [f"NotAllowedError: {user}" for user in users]
        await settled(cache)
        assert server.matching("okome:*:[vl]:*") == []  # not remembered, and no lock
        assert server.calls()["evalsha"] == 1  # the lock was kept for all of them and given up once
        assert not cache._flights
        assert (await cache.get_or_compute("k", door.of("bob"))).status is Status.MISS


async def test_waiters_in_other_processes_are_woken_and_lead(
    open_cache: Open, door: Door, server: RedisServer
) -> None:
    """Neither a poll nor the end of the lock comes within the test."""
    patient = {"poll": 1000, "lock_ttl": 1000}
    async with asyncio.timeout(PATIENCE), open_cache(**patient) as one, open_cache(**patient) as two:
        (ann,) = await asking(one, door, "ann")
        await until(lambda: door.asked)
        (bob,) = await asking(two, door, "bob")
        await told_to_wait(server)
        door.open.set()
        with pytest.raises(NotAllowedError, match="ann"):
            await ann
        cached = await bob
        assert told([cached]) == ["answer 1"]
        assert two.counts["polls"] == 0


async def test_a_leader_who_has_left_has_nobody_to_tell(open_cache: Open, door: Door) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        ann, bob = await asking(cache, door, "ann", "bob")
        ann.cancel()
        await joined(cache, 1)
        door.open.set()
        assert told([await bob]) == ["answer 1"]
        assert door.asked == ["ann", "bob"]


async def test_a_refused_refresh_is_nobodys(open_cache: Open, door: Door, time: Later) -> None:
    """The old value is served on, and the next caller's refresh is tried."""
    door.open.set()
    async with open_cache(fresh=10, stale=100) as cache:
        await cache.get_or_compute("k", door.of("bob"))
        await settled(cache)
        time.passed += 20
        for user, calls in (("ann", 1), ("ann", 1), ("bob", 2)):
            assert (await cache.get_or_compute("k", door.of(user))).status is Status.STALE
            await settled(cache)
            assert door.origin.calls == calls
        assert (await cache.get_or_compute("k", door.of("ann"))).status is Status.HIT


async def test_who_may_not_gets_no_old_value_instead(open_cache: Open, door: Door, time: Later) -> None:
    door.open.set()
    async with open_cache(fresh=10, stale=0, stale_if_error=1000) as cache:
        await cache.get_or_compute("k", door.of("bob"))
        await settled(cache)
        time.passed += 20
        with pytest.raises(NotAllowedError):
            await cache.get_or_compute("k", door.of("ann"))
        await settled(cache)
        assert (await cache.get_or_compute("k", door.of("bob"))).value == Answer("answer 2")


async def test_without_redis_too(own_server: RedisServer, own_client: Redis, door: Door) -> None:
    own_server.kill()
    async with asyncio.timeout(PATIENCE):
        cache: Cache[Answer]
        async with Cache(own_client, namespace="n", codec=Msgpack(Answer)) as cache:
            tasks = await asking(cache, door, "ann", "bob", "cid")
            door.open.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert told(outcomes) == ["NotAllowedError: ann", "answer 1", "answer 1"]


async def test_each_computes_in_his_own_context(open_cache: Open, origin: Origin) -> None:
    user: ContextVar[str] = ContextVar("user")
    release = asyncio.Event()
    seen: list[str] = []

    async def compute() -> Answer:
        seen.append(user.get())
        await release.wait()
        if user.get() == "ann":
            raise NotAllowedError
        return Answer(user.get())

    async def ask(name: str) -> Answer:
        user.set(name)
        return (await cache.get_or_compute("k", compute)).value

    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        ann = asyncio.create_task(ask("ann"))
        await joined(cache, 1)
        bob = asyncio.create_task(ask("bob"))
        await joined(cache, 2)
        release.set()
        with pytest.raises(NotAllowedError):
            await ann
        assert await bob == Answer("bob")
        assert seen == ["ann", "bob"]
    assert computing() is None


# Streams


class Hall:
    """As Door, of streams."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.open = asyncio.Event()
        self.asked: list[str] = []
        self.closed: list[str] = []
        self.later: Exception | None = None
        self.go_on = asyncio.Event()

    def of(self, user: str) -> Callable[[], AsyncIterator[bytes]]:
        async def produce() -> AsyncIterator[bytes]:
            self.asked.append(user)
            try:
                await self.open.wait()
                if user not in self.known:
                    raise NotAllowedError(user)
                yield b"for "
                if self.later is not None:
                    await self.go_on.wait()
                    raise self.later
                yield user.encode()
            finally:
                self.closed.append(user)

        return produce


async def listen(cache: Cache[bytes], hall: Hall, user: str) -> bytes:
    stream = await cache.stream("k", hall.of(user), complete=bool)
    return b"".join([chunk async for chunk in stream])


async def test_a_stream_that_one_may_not_have_is_the_next_ones(redis: Redis) -> None:
    hall = Hall("bob")
    async with asyncio.timeout(PATIENCE), Cache(redis, namespace="s", codec=Bytes(), policy=PATIENT) as cache:
        tasks = []
        for n, user in enumerate(("ann", "cid", "bob", "dan"), 1):
            tasks.append(asyncio.create_task(listen(cache, hall, user)))
            await joined(cache, n)
        hall.open.set()
        ann, cid, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert told([ann, cid]) == ["NotAllowedError: ann", "NotAllowedError: cid"]
        assert others == [b"for bob", b"for bob"]
        assert hall.asked == hall.closed == ["ann", "cid", "bob"]
        await settled(cache)
        assert await listen(cache, hall, "ann") == b"for bob"  # from the cache
        assert hall.asked == ["ann", "cid", "bob"]


async def test_a_stream_in_another_process_is_begun_there(redis: Redis, server: RedisServer) -> None:
    hall = Hall("bob")
    async with (
        asyncio.timeout(PATIENCE),
        Cache(redis, namespace="s", codec=Bytes(), policy=PATIENT) as one,
        Cache(redis, namespace="s", codec=Bytes(), policy=PATIENT) as two,
    ):
        ann = asyncio.create_task(listen(one, hall, "ann"))
        await until(lambda: hall.asked)
        bob = asyncio.create_task(listen(two, hall, "bob"))
        await told_to_wait(server)
        hall.open.set()
        with pytest.raises(NotAllowedError):
            await ann
        assert await bob == b"for bob"
        assert two.counts["polls"] == 0


@pytest.mark.parametrize("later", [NotAllowedError("ann"), ExceptionGroup("in it", [NotAllowedError("ann")])])
@pytest.mark.parametrize("stays", [True, False])
async def test_who_is_told_too_late_breaks_the_stream_of_others(
    redis: Redis, stays: bool, later: Exception
) -> None:
    """What is out can't be taken back: the others get no refusal that is not theirs, and no second beginning."""
    hall = Hall("ann")
    hall.later = later
    async with asyncio.timeout(PATIENCE), Cache(redis, namespace="s", codec=Bytes(), policy=PATIENT) as cache:
        tasks = []
        for n, user in enumerate(("ann", "bob"), 1):
            tasks.append(asyncio.create_task(cache.stream("k", hall.of(user), complete=bool)))
            await joined(cache, n)
        hall.open.set()
        ann, bob = await asyncio.gather(*tasks)
        if not stays:
            await ann.aclose()
        hall.go_on.set()
        await settled(cache)  # nobody has read anything yet
        if stays:
            assert await anext(ann) == b"for "
            with pytest.raises(type(later)):
                await anext(ann)
        assert await anext(bob) == b"for "
        with pytest.raises(ConnectionAbortedError):
            await anext(bob)
        assert hall.asked == ["ann"]
        hall.later = None
        assert await listen(cache, hall, "ann") == b"for ann"
