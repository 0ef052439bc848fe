"""Redis is gone, and hard caps are decided from the ledger: by the library, and by the planner as it is run."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Budgets, Ledger, Outcome
from okome.mode import Mode
from tests.unit.okome.spending import ANN, COST, REQUESTS, TOKENS, OpenBudgets, granted
from tests.unit.okome.test_planner import ask, eventually, health, metric, mode, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_deciding(own_client: Redis, open_budgets: OpenBudgets) -> OpenBudgets:
    def make(*rules: object, **options: object) -> Budgets:
        return open_budgets(*rules, **{"redis": own_client, "on_unavailable": "ledger", **options})

    return make


async def back(budgets: Budgets) -> None:
    """Until Redis decides again."""
    async with asyncio.timeout(60):
        while await budgets.look() is not Mode.REDIS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def left(budgets: Budgets) -> int:
    """By whoever decides; what is owed is less than nothing."""
    (quota,) = (await budgets.reserve(ANN, {"tokens": 0})).quotas
    return quota.remaining - quota.debt


async def test_caps_are_decided_exactly_from_the_ledger(
    open_deciding: OpenBudgets, own_server: RedisServer
) -> None:
    budgets = open_deciding(REQUESTS, TOKENS, COST)
    before = await granted(budgets, {"tokens": 300, "cost": 20})
    assert await budgets.start(before)
    own_server.kill()
    lease = await granted(budgets, {"requests": 1, "tokens": 600, "cost": 100})
    assert budgets.mode is Mode.LEDGER
    decision = await budgets.reserve(ANN, {"tokens": 101, "cost": 1})
    assert (decision.outcome, decision.rule, decision.status_code) == (Outcome.DENIED, "tpd", 429)
    assert [quota.remaining for quota in decision.quotas] == [100, 380]
    assert decision.retry_after is not None
    assert 0 < decision.retry_after <= 86400
    assert (await budgets.reserve(ANN, {"tokens": 1001})).retry_after is None, "no waiting helps"
    assert await budgets.start(lease)
    assert await left(budgets) == 100
    await budgets.commit(lease, {"tokens": 250, "cost": 10})
    assert await left(budgets) == 450
    await budgets.commit(before, {"tokens": 900})
    assert await left(budgets) == -150
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED
    own_server.start()
    await back(budgets)
    assert await left(budgets) == -150
    assert budgets.counts["allowed_by_ledger"] >= 2
    assert budgets.counts["denied_by_ledger"] == 3
    assert budgets.counts["started_by_ledger"] == 1


async def test_what_was_reserved_without_redis_is_held_repeated_refunded_and_ends(
    open_deciding: OpenBudgets, own_server: RedisServer
) -> None:
    budgets = open_deciding(TOKENS, lease_ttl=0.3)
    await budgets.check()
    own_server.kill()
    for _ in range(3):
        lease = await granted(budgets, {"tokens": 400}, lease="mine")
    assert await left(budgets) == 600
    await budgets.refund(lease)
    assert await left(budgets) == 1000
    assert (await budgets.reserve(ANN, {"tokens": 400}, lease="mine")).outcome is Outcome.SETTLED
    assert not await budgets.start(lease)
    late = await granted(budgets, {"tokens": 700})
    await asyncio.sleep(0.4)
    rest = await granted(budgets, {"tokens": 600})
    assert await budgets.start(rest)
    assert not await budgets.start(late), "it has expired, and does not fit any more"
    assert await left(budgets) == 400


async def test_a_process_that_begins_without_redis_decides_too(
    open_deciding: OpenBudgets, own_server: RedisServer
) -> None:
    first = open_deciding(TOKENS)
    spent = await granted(first, {"tokens": 700})
    assert await first.start(spent)
    own_server.kill()
    budgets = open_deciding(TOKENS)
    await budgets.check()
    assert await left(budgets) == 300


async def test_a_rate_beside_a_cap_gives_its_share_and_burns_no_tokens(
    open_deciding: OpenBudgets, own_server: RedisServer
) -> None:
    budgets = open_deciding(REQUESTS, TOKENS)
    await budgets.check()
    own_server.kill()
    said = [await budgets.reserve(ANN, {"requests": 1, "tokens": 10}) for _ in range(4)]
    assert [one.outcome for one in said] == [Outcome.ALLOWED] * 2 + [Outcome.DENIED] * 2
    assert said[-1].rule == "rpm"
    assert await left(budgets) == 980


async def test_several_processes_over_one_file_never_exceed_a_cap(
    open_deciding: OpenBudgets, own_server: RedisServer, tmp_path: Path
) -> None:
    """Each holds for itself; together they begin what fits."""
    books = [Ledger(tmp_path / "spent.sqlite") for _ in range(4)]
    several = [open_deciding(TOKENS, ledger=book) for book in books]
    for budgets in several:
        await budgets.check()
    own_server.kill()

    async def spend(budgets: Budgets) -> int:
        started = 0
        for _ in range(40):
            lease = (await budgets.reserve(ANN, {"tokens": 7})).lease
            if lease is not None and await budgets.start(lease):
                await budgets.commit(lease)
                started += 7
        return started

    spent = await asyncio.gather(*map(spend, several))
    assert sum(spent) == 1000 // 7 * 7
    assert [await left(budgets) for budgets in several] == [1000 - sum(spent)] * 4
    for book in books:
        book.close()


async def test_what_began_without_redis_is_in_its_counter_when_it_is_back(
    open_deciding: OpenBudgets, own_server: RedisServer
) -> None:
    """It was out of reach, and kept a counter that knows nothing of it."""
    budgets = open_deciding(TOKENS)
    assert await left(budgets) == 1000
    with own_server.unreachable():
        assert await budgets.start(await granted(budgets, {"tokens": 800}))
    assert own_server.matching("okome:*:cap:*")
    await back(budgets)
    assert await left(budgets) == 200
    assert budgets.counts["allowed"] == 2, "by Redis"


async def test_where_only_some_processes_reach_redis_the_cap_holds(
    open_deciding: OpenBudgets, own_server: RedisServer, tmp_path: Path
) -> None:
    """One begins without it what its counter does not know; the other's start is weighed by the ledger, too."""
    book = Ledger(tmp_path / "spent.sqlite")
    near, far = open_deciding(TOKENS), open_deciding(TOKENS, ledger=book, breaker=3600)
    assert await left(near) == 1000
    with own_server.unreachable():
        lease = await granted(far, {"tokens": 800})
        assert await far.start(lease)
    other = await granted(near, {"tokens": 300})  # by a counter that has not heard of it
    assert not await near.start(other)
    assert await left(near) == 200
    fitting = await granted(near, {"tokens": 200})
    assert await near.start(fitting)
    book.close()


async def test_nobody_waits_for_a_redis_that_hangs_but_one(
    open_deciding: OpenBudgets, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty come, again and again: after the first failure one task asks, and all decide by the ledger."""
    budgets = open_deciding(TOKENS, redis_timeout=0.2, breaker=0.1)
    await budgets.check()
    by_redis, waited = budgets._admission.by_redis, 0

    async def counted(*arguments: Any) -> Any:
        nonlocal waited
        waited += 1
        return await by_redis(*arguments)

    monkeypatch.setattr(budgets._admission, "by_redis", counted)
    own_server.pause()
    try:
        await budgets.look()
        asked = budgets.counts["unavailable"]
        for _ in range(5):
            said = await asyncio.gather(*[budgets.reserve(ANN, {"tokens": 1}) for _ in range(50)])
            assert {one.outcome for one in said} == {Outcome.ALLOWED}
            assert len(budgets._tasks) <= 1
            await asyncio.sleep(0.1)
        assert budgets.counts["unavailable"] == asked + 250
        assert waited == 0
    finally:
        own_server.resume()
    async with asyncio.timeout(60):
        while not budgets.counts["allowed"]:  # by Redis, though nobody looks but who wants to spend
            await granted(budgets, {"tokens": 0})
            await asyncio.sleep(0.01)


async def test_ledger_without_a_ledger_is_refused(own_client: Redis) -> None:
    with pytest.raises(ValueError, match="on_unavailable='ledger' needs a ledger"):
        Budgets(own_client, rules=[TOKENS], on_unavailable="ledger")


# The planner as it is run


@pytest.fixture(params=["stopped", "killed"])
def gone(request: pytest.FixtureRequest, own_server: RedisServer) -> Iterator[tuple[Callable[[], None], ...]]:
    """How Redis goes, and comes back."""
    if request.param == "killed":
        yield own_server.kill, own_server.start
    else:
        yield own_server.pause, own_server.resume


def test_the_planner_decides_from_its_ledger_and_says_so(
    own_server: RedisServer, tmp_path: Path, gone: tuple[Callable[[], None], ...]
) -> None:
    go, come = gone
    ok = (200, "ok", "redis", "ok", "ok")
    names = ("status", "mode", "redis", "ledger")
    with running(own_server.url, tmp_path, "--tokens-per-day", "100") as planner:
        assert health(planner, *names) == ok
        assert ask(planner, max_tokens=27).json()["usage"]["total_tokens"] == 30
        eventually(lambda: metric(planner, "okome_budget", "settled"), 1)
        go()
        eventually(lambda: health(planner, *names), (200, "degraded", "ledger", "unavailable", "ok"))
        assert mode(planner) == "ledger"
        second = ask(planner, max_tokens=37)
        assert (second.status_code, second.headers["X-OKOME-Cache"]) == (200, "DEGRADED")
        assert second.headers["x-ratelimit-remaining-tokens"] == "30"
        eventually(lambda: metric(planner, "okome_budget", "unsettled"), 1)
        over = ask(planner, max_tokens=28)
        assert (over.status_code, over.json()["error"]["type"]) == (429, "insufficient_quota")
        assert "tokens-per-day" in over.json()["error"]["message"]
        assert ask(planner, max_tokens=17).status_code == 200
        assert metric(planner, "okome_budget", "started_by_ledger") == 2
        assert metric(planner, "okome_budget", "denied_by_ledger") == 1
        come()
        eventually(lambda: health(planner, *names), ok)
        assert mode(planner) == "redis"
        over = ask(planner, max_tokens=8)
        assert (over.status_code, over.headers["x-ratelimit-remaining-tokens"]) == (429, "10")
        assert ask(planner, max_tokens=7).status_code == 200
        assert metric(planner, "okome_budget", "started_by_ledger") == 2
