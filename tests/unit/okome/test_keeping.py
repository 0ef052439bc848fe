"""What is stored, for how long, in which type; and what a computation that was asked for anew is shared by."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Bytes, Cache, Cached, CachePolicy, Directives, Msgpack, Period, Status
from tests.unit.okome.caches import Answer, Later, Open, Origin
from tests.unit.okome.waiting import PATIENCE, joined, settled

pytestmark = pytest.mark.anyio

ANEW = Directives(no_cache=True)


async def test_what_is_declined_is_delivered_and_not_stored(
    open_cache: Open, origin: Origin, server: RedisServer
) -> None:
    seen: list[Answer] = []

    def keep(answer: Answer) -> bool:
        seen.append(answer)
        return answer.text != "answer 1"

    async with open_cache() as cache:
        origin.release.clear()
        asking = [asyncio.create_task(cache.get_or_compute("k", origin, keep=keep)) for _ in range(3)]
        await joined(cache, 3)
        origin.release.set()
        found = await asyncio.gather(*asking)  # who waited shares it
        assert {cached.value for cached in found} == {Answer("answer 1")}
        assert {cached.stored for cached in found} == {False}
        assert found[0].headers()["Cache-Status"] == "okome; fwd=uri-miss"
        await settled(cache)
        assert server.matching("okome:*:[vl]:*") == []
        assert cache.counts["declined"] == 1
        again = await cache.get_or_compute("k", origin, keep=keep)
        assert (again.value, again.stored) == (Answer("answer 2"), True)
        await settled(cache)
        assert (await cache.get_or_compute("k", origin, keep=keep)).status is Status.HIT
    assert seen == [Answer("answer 1"), Answer("answer 2")]


async def test_nobody_who_comes_later_gets_what_was_declined(
    open_cache: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while Redis is still being told to give up the lock."""
    told = asyncio.Event()
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        release = cache._store.release

        async def slowly(*arguments: Any) -> None:
            await told.wait()
            await release(*arguments)

        monkeypatch.setattr(cache._store, "release", slowly)
        await cache.get_or_compute("k", origin, keep=lambda _: False)
        again = asyncio.create_task(cache.get_or_compute("k", origin))
        await joined(cache, 1)
        told.set()
        assert (await again).value == Answer("answer 2")


async def test_an_answer_has_a_lifetime_of_its_own(
    open_cache: Open, origin: Origin, time: Later, server: RedisServer
) -> None:
    async with open_cache(fresh=100, stale=0, stale_if_error=0, max_compute=1) as cache:
        short = await cache.get_or_compute("short", origin, keep=lambda _: 10)
        long = await cache.get_or_compute("long", origin, keep=lambda _: 1e6, tags=["t"])
        usual = await cache.get_or_compute("usual", origin, keep=lambda _: True)
        assert [cached.ttl for cached in (short, long, usual)] == [10, 1e6, 100]
        await settled(cache)
        (tag,) = server.matching("okome:*:t:*")
        assert server.admin.ttl(tag) > 1e6  # what hangs on it lives as long
        time.passed += 50
        assert [(await cache.get_or_compute(key, origin)).status for key in ("short", "long", "usual")] == [
            Status.MISS,
            Status.HIT,
            Status.HIT,
        ]
        time.passed += 1000
        assert (await cache.get_or_compute("long", origin, tags=["t"])).status is Status.HIT
        await cache.invalidate_tag("t")
        assert await cache.get("long") is None


@pytest.mark.parametrize("verdict", [None, "yes", -1, math.nan, math.inf, ValueError("odd answer")])
async def test_who_cannot_tell_whether_to_keep_it_keeps_nothing(
    open_cache: Open, origin: Origin, verdict: Any
) -> None:
    """The answer is good, whatever the predicate makes of it."""

    def keep(_: object) -> Any:
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def chunks() -> AsyncIterator[bytes]:
        yield b"chunk"

    async with open_cache() as cache:
        assert (await cache.get_or_compute("k", origin, keep=keep)).value == Answer("answer 1")
        stream = await cache.stream("k", chunks, complete=keep)
        assert [chunk async for chunk in stream] == [b"chunk"]
        await settled(cache)
        assert (cache.counts["undecided"], cache.counts["stored"]) == (2, 0)
        assert await cache.get("k") is None


async def test_what_is_no_function_is_refused_at_the_call(open_cache: Open, origin: Origin) -> None:
    async with open_cache() as cache:
        with pytest.raises(TypeError, match="keep"):
            await cache.get_or_compute("k", origin, keep=True)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(TypeError, match="complete"):
            await cache.stream("k", origin, complete=None)  # type: ignore[arg-type]  # on purpose
        assert origin.calls == 0


async def test_a_stream_has_a_lifetime_of_its_own_too(redis: Redis, time: Later) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"chunk"

    async with Cache(redis, namespace="s", codec=Bytes(), clock=time) as cache:
        for passed, status in ((0, "MISS"), (5, "HIT"), (4000, "MISS")):
            time.passed += passed
            stream = await cache.stream("k", chunks, complete=lambda _: 10)
            assert stream.headers()["X-OKOME-Cache"] == status
            assert [chunk async for chunk in stream] == [b"chunk"]
            await settled(cache)


# One type


@pytest.mark.parametrize("directives", [Directives(), ANEW, Directives(no_store=True)])
async def test_a_miss_has_the_type_of_a_hit(redis: Redis, directives: Directives) -> None:
    async def pair() -> Any:
        return "a", {"b": (1, 2)}

    async def fields() -> Any:
        return {"text": "a dict, as JSON gives it"}

    plain: Cache[Any]
    async with Cache(redis, namespace="plain", codec=Msgpack[Any](list)) as plain:
        miss = await plain.get_or_compute("k", pair, directives=directives)
        assert miss.value == ["a", {"b": [1, 2]}]
    async with Cache(redis, namespace="answers", codec=Msgpack(Answer)) as answers:
        found = await answers.get_or_compute("k", fields, directives=directives)
        assert found.value == Answer("a dict, as JSON gives it")
        if not directives.no_store:
            await settled(answers)
            assert (await answers.get_or_compute("k", fields)).value == found.value


@dataclass
class Pair:
    left: int
    right: tuple[int, ...] = ()


KINDS: list[tuple[Any, Any]] = [
    (type(None), None),
    (bool, False),
    (int | None, None),
    (float, 0),
    (str, ""),
    (str, Period.DAY),
    (bytes, bytearray(b"x")),
    (tuple, (1, (2, 3))),
    (tuple[int, tuple[int, int]], (1, (2, 3))),
    (Any, (1, 2)),
    (set[int], {1, 2}),
    (list, frozenset({1})),
    (Pair, Pair(1, (2,))),
    (dict, Pair(1, (2,))),
    (Decimal, Decimal("1.10")),
    (str, Decimal("1.10")),
    (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2)),  # that it has no zone is a difference
    (dict[int, int], {1: 2}),
]


@pytest.mark.parametrize(("kind", "value"), KINDS)
async def test_whatever_the_type_is(redis: Redis, kind: Any, value: Any) -> None:
    async def compute() -> Any:
        return value

    cache: Cache[Any]
    async with Cache(redis, namespace="kinds", codec=Msgpack(kind)) as cache:
        miss = await cache.get_or_compute("k", compute)
        await settled(cache)
        hit = await cache.get_or_compute("k", compute)
        got = await cache.get("k")
        assert got is not None
        assert (miss.status, hit.status) == (Status.MISS, Status.HIT)
        assert repr(miss.value) == repr(hit.value) == repr(got.value)


async def test_without_redis_it_has_it_too(own_server: RedisServer, own_client: Redis) -> None:
    async def fields() -> Any:
        return {"text": "x"}

    own_server.kill()
    async with Cache(own_client, namespace="answers", codec=Msgpack(Answer)) as cache:
        found = await cache.get_or_compute("k", fields)
        assert (found.status, found.value) == (Status.DEGRADED, Answer("x"))


async def test_what_would_not_come_back_is_delivered_and_not_stored(redis: Redis) -> None:
    async def wrong() -> Any:
        return {"txt": 1}

    async with Cache(redis, namespace="answers", codec=Msgpack(Answer)) as cache:
        for _ in range(2):
            found: Cached[Any] = await cache.get_or_compute("k", wrong)
            assert (found.value, found.stored) == ({"txt": 1}, False)
            await settled(cache)
        assert (cache.counts["unencodable"], cache.counts["stored"]) == (2, 0)


@pytest.mark.parametrize("directives", [Directives(), Directives(no_store=True)])
async def test_a_streams_chunks_are_bytes_wherever_they_come_from(
    redis: Redis, directives: Directives
) -> None:
    def of(*chunks: Any) -> Any:
        async def produce() -> AsyncIterator[Any]:
            for chunk in chunks:
                yield chunk

        return produce

    async with Cache(redis, namespace="s", codec=Bytes()) as cache:
        views = of(bytearray(b"a"), memoryview(b"b"), b"c")
        for _ in range(2):
            stream = await cache.stream("k", views, complete=bool, directives=directives)
            found = [chunk async for chunk in stream]
            assert ({type(chunk) for chunk in found}, found) == ({bytes}, [b"a", b"b", b"c"])
            await settled(cache)
        for wrong in ("text", 5):
            with pytest.raises(TypeError, match=r"chunk is bytes, not (str|int)"):
                await cache.stream(f"{wrong}", of(wrong), complete=bool, directives=directives)


# Asked for anew


async def test_fifty_who_want_it_anew_share_two_computations(open_cache: Open, origin: Origin) -> None:
    """The first one's, and one that begins when all the others have come; at once or one after the other."""
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        origin.release.clear()
        first = asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW))
        await origin.started.wait()
        others = [asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW)) for _ in range(49)]
        await joined(cache, 49)
        assert origin.calls == 1
        origin.release.set()
        found = await asyncio.gather(first, *others)
        assert [cached.value.text for cached in found] == ["answer 1"] + ["answer 2"] * 49
        assert [cached.status for cached in found].count(Status.MISS) == 2
        assert origin.calls == 2
        await settled(cache)
        stored = await cache.get("k")
        assert stored is not None
        assert stored.value == Answer("answer 2")


async def test_fifty_at_once_share_one(open_cache: Open, origin: Origin) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        await cache.get_or_compute("k", origin)
        await settled(cache)
        found = await asyncio.gather(*[cache.get_or_compute("k", origin, directives=ANEW) for _ in range(50)])
        assert {cached.value.text for cached in found} == {"answer 2"}


async def test_they_share_without_redis_too(
    own_server: RedisServer, own_client: Redis, origin: Origin
) -> None:
    own_server.kill()
    async with asyncio.timeout(PATIENCE), Cache(own_client, namespace="n", codec=Msgpack(Answer)) as cache:
        origin.release.clear()
        first = asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW))
        await origin.started.wait()
        others = [asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW)) for _ in range(49)]
        await joined(cache, 49)
        origin.release.set()
        await asyncio.gather(first, *others)
        assert origin.calls == 2


@pytest.mark.parametrize("how", ["fails", "is given up"])
async def test_who_waits_for_the_one_before_computes_when_that_ends(
    open_cache: Open, origin: Origin, how: str
) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        origin.release.clear()
        first = asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW))
        await origin.started.wait()
        other = Origin()
        second = asyncio.create_task(cache.get_or_compute("k", other, directives=ANEW))
        await joined(cache, 1)
        await asyncio.sleep(0)
        assert other.calls == 0
        if how == "fails":
            origin.error = ValueError("down")
            origin.release.set()
            with pytest.raises(ValueError, match="down"):
                await first
        else:
            first.cancel()
        assert (await second).value == Answer("answer 1")
        assert other.calls == 1


async def test_what_is_computed_anew_makes_no_hit_wait(open_cache: Open, origin: Origin) -> None:
    async with asyncio.timeout(PATIENCE), open_cache() as cache:
        await cache.put("k", Answer("stored"))
        origin.release.clear()
        anew = asyncio.create_task(cache.get_or_compute("k", origin, directives=ANEW))
        await origin.started.wait()
        assert (await cache.get_or_compute("k", origin)).status is Status.HIT
        origin.release.set()
        assert (await anew).value == Answer("answer 1")


# A Redis that is known to be gone


async def test_put_and_invalidate_leave_a_dead_redis_alone(
    own_server: RedisServer, own_client: Redis
) -> None:
    asked = 0

    policy = CachePolicy(breaker=1000)
    async with Cache(own_client, namespace="n", codec=Bytes(), policy=policy) as cache:
        line = cache._store._line
        execute = line.execute_command

        async def counted(*command: Any) -> Any:
            nonlocal asked
            asked += 1
            return await execute(*command)

        line.execute_command = counted  # type: ignore[method-assign]
        own_server.kill()
        assert not await cache.put("k", b"x")
        await settled(cache)
        before = asked
        assert before > 0
        for _ in range(3):
            assert not await cache.put("k", b"x")
            assert not await cache.invalidate("k")
            assert not await cache.invalidate_tag("t")
        await settled(cache)
        assert asked == before


async def test_a_write_that_fails_gives_the_lock_back_without_keeping_its_caller(
    own_server: RedisServer, own_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put waits once for Redis that dies meanwhile, not once more to give up the lock."""
    policy = CachePolicy(breaker=1000, write_timeout=30, redis_timeout=30)
    async with Cache(own_client, namespace="n", codec=Bytes(), policy=policy) as cache:
        release = cache._store.release
        gone = asyncio.Event()

        async def hanging(*arguments: Any) -> None:
            await gone.wait()
            await release(*arguments)

        monkeypatch.setattr(cache._store, "release", hanging)
        enter = cache._store.enter

        async def killed_after(*arguments: Any, **options: Any) -> Any:
            owned = await enter(*arguments, **options)
            own_server.kill()
            return owned

        monkeypatch.setattr(cache._store, "enter", killed_after)
        async with asyncio.timeout(PATIENCE):
            assert not await cache.put("k", b"x")
        gone.set()
