"""Cache and budgets together: who computes pays, nobody else, and nobody else is told what concerns him."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.processes import Processes, event
from bench.redis_server import RedisServer
from okome import (
    Budgets,
    Bytes,
    Cache,
    CachePolicy,
    Cap,
    Directives,
    Lease,
    Ledger,
    Metered,
    Msgpack,
    Outcome,
    OverBudgetError,
    Rate,
    Status,
    connect,
)
from tests.unit.okome.spending import OpenBudgets
from tests.unit.okome.waiting import PATIENCE, joined, settled, told_to_wait, until

pytestmark = pytest.mark.anyio

RATE = Rate(name="requests", by=("user",), unit="requests", limit=10, per=3600)
CAP = Cap(name="tokens", by=("user",), unit="tokens", limit=1000)
ESTIMATE = {"requests": 1, "tokens": 100}
PATIENT = CachePolicy(redis_timeout=30, write_timeout=30, lock_ttl=1000, poll=1000)


@pytest.fixture
async def budgets(open_budgets: OpenBudgets) -> Budgets:
    return open_budgets(RATE, CAP)


@pytest.fixture
async def cache(redis: Redis) -> AsyncIterator[Cache[str]]:
    async with Cache(redis, namespace="paid", codec=Msgpack(str), policy=PATIENT) as cache:
        yield cache


async def left(budgets: Budgets, user: str) -> tuple[int, int]:
    """Requests and tokens, once all is settled."""
    await until(lambda: not budgets._tasks)
    requests, tokens = (await budgets.reserve({"user": user}, {"requests": 0, "tokens": 0})).quotas
    return requests.remaining, tokens.remaining


async def broke(budgets: Budgets, user: str) -> None:
    """He has spent it all."""
    lease = (await budgets.reserve({"user": user}, {"tokens": 1000})).lease
    assert lease is not None
    assert await budgets.start(lease)
    await budgets.commit(lease)


class Gpu:
    """Answers once it is released, for 7 tokens."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, spent: Counter[str]) -> str:
        self.calls += 1
        spent["tokens"] = 3
        self.begun.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error
        spent["tokens"] += 4
        return "answer"


async def test_who_computes_pays_what_it_cost(cache: Cache[str], budgets: Budgets) -> None:
    gpu = Gpu()
    gpu.release.set()
    metered = Metered(budgets, {"user": "ann"}, ESTIMATE)
    assert metered.headers() == {}
    cached = await cache.get_or_compute("k", metered.compute(gpu))
    assert (cached.value, cached.status) == ("answer", Status.MISS)
    assert metered.headers()["x-ratelimit-remaining-tokens"] == "900"
    assert await left(budgets, "ann") == (9, 993)


async def test_hits_and_who_waits_are_free(cache: Cache[str], budgets: Budgets) -> None:
    gpu = Gpu()
    users = ["ann", "bob", "cid"]
    of = {user: Metered(budgets, {"user": user}, ESTIMATE) for user in users}
    async with asyncio.timeout(PATIENCE):
        tasks = []
        for n, user in enumerate(users, 1):
            tasks.append(asyncio.create_task(cache.get_or_compute("k", of[user].compute(gpu))))
            await joined(cache, n)
        gpu.release.set()
        assert {cached.value for cached in await asyncio.gather(*tasks)} == {"answer"}
    await settled(cache)
    hit = Metered(budgets, {"user": "dan"}, ESTIMATE)
    assert (await cache.get_or_compute("k", hit.compute(gpu))).status is Status.HIT
    assert [await left(budgets, user) for user in (*users, "dan")] == [(9, 993), *[(10, 1000)] * 3]
    assert (of["bob"].decision, hit.decision, gpu.calls) == (None, None, 1)


async def test_ones_429_does_not_reach_a_colleague_with_the_same_question(
    cache: Cache[str], budgets: Budgets
) -> None:
    await broke(budgets, "ann")
    gpu, gate = Gpu(), asyncio.Event()
    gpu.release.set()
    reserve = budgets.reserve

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await gate.wait()
        return await reserve(*arguments, **options)

    budgets.reserve = slowly  # type: ignore[method-assign]
    ann, bob = (Metered(budgets, {"user": user}, ESTIMATE) for user in ("ann", "bob"))
    async with asyncio.timeout(PATIENCE):
        first = asyncio.create_task(cache.get_or_compute("k", ann.compute(gpu)))
        await joined(cache, 1)
        second = asyncio.create_task(cache.get_or_compute("k", bob.compute(gpu)))
        await joined(cache, 2)
        gate.set()
        with pytest.raises(OverBudgetError, match="tokens") as refused:
            await first
        assert (await second).value == "answer"
    assert refused.value.decision.status_code == 429
    assert "Retry-After" in refused.value.decision.headers()
    assert gpu.calls == 1
    assert [await left(budgets, user) for user in ("ann", "bob")] == [(10, 0), (9, 993)]


async def asking_elsewhere(url: str, ledger_path: str, user: str, stream: bool, begun: Any) -> str:
    """One process's whole life: it asks, and says what it got. Says so when it is about to reserve."""
    ledger, client = Ledger(ledger_path), connect(url, timeout=30)
    budgets = Budgets(client, rules=[RATE, CAP], ledger=ledger, namespace="test", redis_timeout=30)
    reserve = budgets.reserve

    async def slowly(*arguments: Any, **options: Any) -> Any:
        begun[user].set()
        if user == "ann":
            await asyncio.to_thread(begun["go"].wait, PATIENCE)
        return await reserve(*arguments, **options)

    budgets.reserve = slowly  # type: ignore[method-assign]
    metered = Metered(budgets, {"user": user}, ESTIMATE)

    async def ask(spent: Counter[str]) -> bytes:
        spent["tokens"] = 7
        return user.encode()

    async def produce(spent: Counter[str]) -> AsyncIterator[bytes]:
        yield await ask(spent)

    try:
        async with budgets, Cache(client, namespace="two", codec=Bytes(), policy=PATIENT) as cache:
            if not stream:
                return (await cache.get_or_compute("k", metered.compute(ask))).value.decode()
            chunks = await cache.stream("k", metered.stream(produce), complete=bool)
            return b"".join([chunk async for chunk in chunks]).decode()
    except OverBudgetError as error:
        return f"{user}: {error.decision.status_code}"
    finally:
        ledger.close()
        await client.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_nor_one_in_another_process(
    server: RedisServer, budgets: Budgets, tmp_path: Path, stream: bool
) -> None:
    """Neither polls nor the lock's end come within the test: only a message wakes who waits."""
    await broke(budgets, "ann")
    begun = {name: event() for name in ("ann", "bob", "go")}
    path = str(tmp_path / "spent.sqlite")
    ann = Processes(asking_elsewhere, [(server.url, path, "ann", stream, begun)])
    bob = None
    try:
        assert await asyncio.to_thread(begun["ann"].wait, PATIENCE)
        bob = Processes(asking_elsewhere, [(server.url, path, "bob", stream, begun)])
        await told_to_wait(server)
        begun["go"].set()
        assert await asyncio.to_thread(ann.results) == ["ann: 429"]
        assert await asyncio.to_thread(bob.results) == ["bob"]
    finally:
        ann.end()
        if bob is not None:
            bob.end()
    assert await left(budgets, "bob") == (9, 993)


async def test_who_fails_pays_what_it_named_and_nothing_else(cache: Cache[str], budgets: Budgets) -> None:
    gpu = Gpu()
    gpu.release.set()
    gpu.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await cache.get_or_compute("k", Metered(budgets, {"user": "ann"}, ESTIMATE).compute(gpu))
    assert await left(budgets, "ann") == (10, 997)


class Silent(Gpu):
    """Names nothing that it spends."""

    async def __call__(self, spent: Counter[str]) -> str:
        self.begun.set()
        await asyncio.Event().wait()
        return "never"


@pytest.mark.parametrize(("kind", "tokens"), [(Gpu, 997), (Silent, 900)])
async def test_who_hangs_up_pays_what_was_spent_or_what_was_reserved(
    cache: Cache[str], budgets: Budgets, kind: type[Gpu], tokens: int
) -> None:
    """Where nobody can say what was spent, hanging up is no way to get it for nothing."""
    gpu = kind()
    metered = Metered(budgets, {"user": "ann"}, ESTIMATE)
    caller = asyncio.create_task(cache.get_or_compute("k", metered.compute(gpu)))
    async with asyncio.timeout(PATIENCE):
        await gpu.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await settled(cache)
    assert await left(budgets, "ann") == (9, tokens)


@pytest.mark.parametrize("why", ["hang-up", "lost meanwhile"])
async def test_what_did_not_start_costs_nothing(
    redis: Redis, server: RedisServer, tmp_path: Path, why: str
) -> None:
    ann = {"user": "ann"}

    class Unlucky(Budgets):
        """Redis loses the counters between the two calls, and another takes all there is."""

        async def start(self, lease: Lease) -> bool:
            server.admin.delete(*server.matching("okome:*:cap:*"))
            other = (await self.reserve(ann, {"tokens": 1000})).lease
            assert other is not None
            assert await super().start(other)
            return await super().start(lease)

    ledger = Ledger(tmp_path / "ledger.sqlite")
    kind = Budgets if why == "hang-up" else Unlucky
    budgets = kind(redis, rules=[RATE, CAP], ledger=ledger, redis_timeout=30)
    gpu = Gpu()
    metered = Metered(budgets, ann, ESTIMATE)
    work = metered.compute(gpu)()
    if why == "hang-up":
        writer = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(work)
        await until(lambda: metered.decision is not None)  # reserved: now the start waits for the ledger
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.close()
    else:
        with pytest.raises(OverBudgetError):
            await work
    assert len(budgets._tasks) == 1
    assert await left(budgets, "ann") == (10, 1000 if why == "hang-up" else 0)
    assert gpu.calls == 0
    await budgets.aclose()
    ledger.close()


# Streams


class Source:
    """Of a chunk for each token; each waits for a permit."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.permits = asyncio.Semaphore(0)
        self.calls = self.closed = 0

    async def __call__(self, spent: Counter[str]) -> AsyncIterator[bytes]:
        self.calls += 1
        spent["tokens"] = 0
        try:
            for chunk in self.chunks:
                await self.permits.acquire()
                spent["tokens"] += 1
                yield chunk
        finally:
            self.closed += 1
            spent["tokens"] += 10  # what is known only at the end


async def listen(cache: Cache[Any], metered: Metered, source: Source, **options: Any) -> bytes:
    stream = await cache.stream("k", metered.stream(source), complete=bool, **options)
    async with aclosing(stream):
        return b"".join([chunk async for chunk in stream])


async def test_a_stream_is_paid_once_by_who_begins_it(cache: Cache[str], budgets: Budgets) -> None:
    await broke(budgets, "ann")
    source = Source(b"a", b"b")
    users = ("ann", "bob", "cid")
    of = {user: Metered(budgets, {"user": user}, ESTIMATE) for user in users}
    async with asyncio.timeout(PATIENCE):
        ann, bob, cid = [asyncio.create_task(listen(cache, of[user], source)) for user in users]
        with pytest.raises(OverBudgetError):
            await ann
        source.permits.release()
        source.permits.release()
        assert await bob == await cid == b"ab"
    assert (source.calls, source.closed) == (1, 1)
    assert [await left(budgets, user) for user in users] == [(10, 0), (9, 988), (10, 1000)]
    await settled(cache)
    assert await listen(cache, of["ann"], source) == b"ab"


@pytest.mark.parametrize("no_store", [False, True])
async def test_a_stream_that_is_closed_early_is_settled(
    cache: Cache[str], budgets: Budgets, no_store: bool
) -> None:
    source = Source(b"a", b"b", b"c")
    metered = Metered(budgets, {"user": "ann"}, ESTIMATE)
    async with asyncio.timeout(PATIENCE):
        source.permits.release()
        stream = await cache.stream(
            "k", metered.stream(source), complete=bool, directives=Directives(no_store=no_store)
        )
        assert await anext(stream) == b"a"
        await stream.aclose()
        await until(lambda: source.closed == 1)
        await settled(cache)
    assert await left(budgets, "ann") == (9, 989)


async def test_what_is_never_cached_is_paid_and_refused_too(cache: Cache[str], budgets: Budgets) -> None:
    gpu = Gpu()
    gpu.release.set()
    never = Directives(no_store=True)
    for user in ("ann", "ann", "bob"):
        metered = Metered(budgets, {"user": user}, ESTIMATE)
        await cache.get_or_compute("k", metered.compute(gpu), directives=never)
    assert [await left(budgets, user) for user in ("ann", "bob")] == [(8, 986), (9, 993)]
    await broke(budgets, "cid")
    with pytest.raises(OverBudgetError):
        await listen(cache, Metered(budgets, {"user": "cid"}, ESTIMATE), Source(b"a"), directives=never)


# What can go wrong


async def test_who_cannot_be_charged_is_told_at_the_call(budgets: Budgets) -> None:
    with pytest.raises(ValueError, match="user"):
        Metered(budgets, {"model": "m"}, ESTIMATE)
    with pytest.raises(ValueError, match="amount"):
        Metered(budgets, {"user": "ann"}, {"tokens": -1})


async def test_what_cannot_have_been_spent_is_said_and_the_estimate_is_charged(
    cache: Cache[str], budgets: Budgets
) -> None:
    async def odd(spent: Counter[str]) -> str:
        spent["tokens"] = -5
        return "answer"

    with pytest.raises(ValueError, match="amount"):
        await cache.get_or_compute("k", Metered(budgets, {"user": "ann"}, ESTIMATE).compute(odd))
    assert await left(budgets, "ann") == (9, 900)
    assert budgets.counts["settled"] == 1


@pytest.mark.parametrize("wrong", [{"tokns": 5}, {"tokens": -5}])
@pytest.mark.parametrize("ends", [asyncio.CancelledError(), ConnectionError("gone")])
async def test_what_ended_it_is_told_though_what_was_spent_cannot_be(
    budgets: Budgets, wrong: dict[str, int], ends: BaseException
) -> None:
    async def odd(spent: Counter[str]) -> str:
        spent.update(wrong)
        raise ends

    with pytest.raises(type(ends)):
        await Metered(budgets, {"user": "ann"}, ESTIMATE).compute(odd)()
    await until(lambda: budgets.counts["settled"])
    assert await left(budgets, "ann") == (9, 900)


async def test_a_start_that_is_refused_costs_nothing_and_is_his_alone(
    cache: Cache[str], budgets: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = budgets.start
    refusals = 1

    async def refusing(lease: Lease) -> bool:
        nonlocal refusals
        refusals -= 1
        return refusals < 0 and await start(lease)

    monkeypatch.setattr(budgets, "start", refusing)
    gpu = Gpu()
    gpu.release.set()
    of = {user: Metered(budgets, {"user": user}, ESTIMATE) for user in ("ann", "bob")}
    async with asyncio.timeout(PATIENCE):
        ann, bob = [asyncio.create_task(cache.get_or_compute("k", of[user].compute(gpu))) for user in of]
        with pytest.raises(OverBudgetError, match="state is not known") as refused:
            await ann
        assert (await bob).value == "answer"
    assert refused.value.decision.outcome is Outcome.UNAVAILABLE
    assert refused.value.decision.status_code == 503
    assert [await left(budgets, user) for user in of] == [(10, 1000), (9, 993)]


async def test_closing_waits_for_what_is_to_be_settled(redis: Redis, ledger: Ledger) -> None:
    gpu = Gpu()
    gpu.release.set()
    async with (
        Budgets(redis, rules=[CAP], ledger=ledger, namespace="test", redis_timeout=30) as budgets,
        Cache(redis, namespace="paid", codec=Msgpack(str), policy=PATIENT) as cache,
    ):
        await cache.get_or_compute("k", Metered(budgets, {"user": "ann"}, {"tokens": 100}).compute(gpu))
    assert budgets.counts["settled"] == 1
    assert not budgets._tasks
