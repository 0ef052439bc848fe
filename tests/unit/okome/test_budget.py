"""Budgets against a real Redis, under the ACL of CN01."""

import asyncio
import math
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import (
    Budgets,
    Cap,
    EvictingServerError,
    Lease,
    Ledger,
    Outcome,
    Period,
    Rate,
    StateLostError,
    connect,
)
from okome.budget_wire import Said
from okome.connection import Clock
from okome.ledger import Account
from tests.unit.okome.test_cache_failures import Proxy
from tests.unit.okome.waiting import expire

pytestmark = pytest.mark.anyio

ANN = {"user": "ann", "model": "large", "tier": "free"}
REQUESTS = Rate(name="rpm", by=("user",), unit="requests", limit=10, per=3600)
TOKENS = Cap(name="tpd", by=("user",), unit="tokens", limit=1000)
COST = Cap(name="cost", by=("tier", "model"), unit="cost", limit=500, period=Period.MONTH)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "spent.sqlite")
    yield ledger
    ledger.close()


Open = Callable[..., Budgets]


@pytest.fixture
async def open_budgets(redis: Redis, ledger: Ledger) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def make(*rules: Rate | Cap, **options: object) -> Budgets:
            settings = {"ledger": ledger, "namespace": "test", "redis": redis, "redis_timeout": 30, **options}
            budgets = Budgets(rules=rules, **settings)  # type: ignore[arg-type]  # by name
            stack.push_async_callback(budgets.aclose)
            return budgets

        yield make


@pytest.fixture
async def own_client(own_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(own_server.url, timeout=30)
    yield client
    await client.aclose()


async def granted(budgets: Budgets, amounts: dict[str, int], **options: str) -> Lease:
    decision = await budgets.reserve(ANN, amounts, **options)
    assert decision.lease is not None, decision
    return decision.lease


async def left(budgets: Budgets, unit: str = "tokens") -> int:
    """What is left of the only rule for `unit`, asked for by a reservation of nothing."""
    decision = await budgets.reserve(ANN, {unit: 0})
    return decision.quotas[0].remaining


async def test_gcra_gives_the_burst_then_says_when(open_budgets: Open) -> None:
    budgets = open_budgets(Rate(name="rpm", by=("user",), unit="requests", limit=60, per=3600, burst=3))
    decisions = [await budgets.reserve(ANN, {"requests": 1}) for _ in range(4)]
    assert [decision.outcome for decision in decisions] == [Outcome.ALLOWED] * 3 + [Outcome.DENIED]
    denied = decisions[-1]
    assert (denied.status_code, denied.rule) == (429, "rpm")
    assert denied.retry_after is not None
    (quota,) = denied.quotas
    assert 0 < denied.retry_after <= 60
    assert quota.reset == pytest.approx(denied.retry_after + 120, abs=0.01)
    assert denied.headers() | {"x-ratelimit-reset-requests": ""} == {
        "RateLimit-Policy": '"rpm";q=60;w=3600;qu="requests"',
        "RateLimit": f'"rpm";r=0;t={math.ceil(quota.reset)}',
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "",
        "Retry-After": str(math.ceil(denied.retry_after)),
    }
    assert denied.headers()["x-ratelimit-reset-requests"] in ("3m0s", f"2m{math.ceil(quota.reset) - 120}s")
    assert "RateLimit" not in denied.headers(draft=False)


async def test_another_user_has_another_budget(open_budgets: Open) -> None:
    budgets = open_budgets(TOKENS)
    await granted(budgets, {"tokens": 1000})
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED
    assert (await budgets.reserve({"user": "bob"}, {"tokens": 1000})).outcome is Outcome.ALLOWED


async def test_where_limits_a_rule_to_a_tier(open_budgets: Open) -> None:
    free = Cap(name="free", by=("user",), unit="tokens", limit=10, where={"tier": "free"})
    budgets = open_budgets(free)
    assert (await budgets.reserve(ANN, {"tokens": 11})).outcome is Outcome.DENIED
    assert (await budgets.reserve(ANN | {"tier": "paid"}, {"tokens": 11})).outcome is Outcome.ALLOWED


async def test_all_or_nothing_a_denied_large_request_burns_no_quota(open_budgets: Open) -> None:
    budgets = open_budgets(REQUESTS, TOKENS, COST)
    for _ in range(30):
        decision = await budgets.reserve(ANN, {"requests": 1, "tokens": 10, "cost": 501})
        assert (decision.outcome, decision.rule, decision.retry_after) == (Outcome.DENIED, "cost", None)
    assert [quota.remaining for quota in decision.quotas] == [10, 1000, 500]
    await granted(budgets, {"requests": 10, "tokens": 1000, "cost": 500})


async def test_one_command_per_decision(open_budgets: Open, server: RedisServer) -> None:
    budgets = open_budgets(REQUESTS, TOKENS, COST)
    await granted(budgets, {"requests": 1, "tokens": 1, "cost": 1})
    server.forget_calls()
    await granted(budgets, {"requests": 1, "tokens": 1, "cost": 1})
    calls = server.calls()
    assert calls["evalsha"] == 1
    assert "eval" not in calls


async def test_reserve_start_commit(open_budgets: Open) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 400})
    assert await left(budgets) == 600
    assert await budgets.start(lease)
    await budgets.commit(lease, {"tokens": 150})
    assert await left(budgets) == 850


async def test_refund_gives_everything_back(open_budgets: Open) -> None:
    budgets = open_budgets(REQUESTS, TOKENS)
    lease = await granted(budgets, {"requests": 4, "tokens": 400})
    await budgets.refund(lease)
    assert (await left(budgets), await left(budgets, "requests")) == (1000, 10)


async def test_above_the_estimate_is_debt_and_never_dropped(open_budgets: Open, server: RedisServer) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 900})
    await budgets.commit(lease, {"tokens": 1500})
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED
    (key,) = server.matching("okome:*:cap:*")
    assert server.admin.hmget(key, "s", "r", "d") == [b"1500", b"0", b"600"]


async def test_repeats_change_nothing(open_budgets: Open) -> None:
    """A client that retries, or a caller that does not know whether its call arrived."""
    budgets = open_budgets(REQUESTS, TOKENS)
    amounts = {"requests": 1, "tokens": 100}
    leases = [await granted(budgets, amounts, lease="mine") for _ in range(3)]
    assert (await left(budgets), await left(budgets, "requests")) == (900, 9)
    for lease in leases:
        assert await budgets.start(lease)
    for lease in leases:
        await budgets.commit(lease, {"tokens": 60})
    assert (await left(budgets), await left(budgets, "requests")) == (940, 9)


@pytest.mark.parametrize("end", ["commit", "refund"])
@pytest.mark.parametrize("lost", ["nothing", "marker", "counter"])
async def test_a_settled_lease_gives_no_more_work(
    open_budgets: Open, server: RedisServer, end: str, lost: str
) -> None:
    """Neither by its id nor by the lease itself, whatever Redis lost meanwhile."""
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100}, lease="mine")
    assert await budgets.start(lease)
    await (budgets.commit(lease, {"tokens": 60}) if end == "commit" else budgets.refund(lease))
    if lost != "nothing":
        server.admin.delete(*server.matching("okome:*:lease:*"))
    if lost == "counter":
        server.admin.delete(*server.matching("okome:*:cap:*"))
    assert not await budgets.start(lease)
    again = await budgets.reserve(ANN, {"tokens": 100}, lease="mine")
    assert (again.outcome, again.status_code, again.lease) == (Outcome.SETTLED, 409, None)
    await budgets.commit(lease, {"tokens": 7})  # the first settlement stands
    assert await left(budgets) == (940 if end == "commit" else 1000)
    assert budgets.counts["already_settled"] == 2


@pytest.mark.parametrize("first", ["commit", "refund"])
async def test_of_two_settlements_at_once_redis_keeps_the_one_that_the_ledger_keeps(
    open_budgets: Open, server: RedisServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The first in the ledger is the last in Redis."""
    one, two = open_budgets(TOKENS), open_budgets(TOKENS)
    lease = await granted(one, {"tokens": 100})
    assert await one.start(lease)
    settle = one._settlement._settle_in_redis

    async def later(*arguments: Any) -> bool:
        await (two.refund(lease) if first == "commit" else two.commit(lease, {"tokens": 60}))
        return await settle(*arguments)

    monkeypatch.setattr(one._settlement, "_settle_in_redis", later)
    await (one.commit(lease, {"tokens": 60}) if first == "commit" else one.refund(lease))
    assert await left(one) == (940 if first == "commit" else 1000)
    server.admin.flushall()
    assert await left(one) == (940 if first == "commit" else 1000)


@pytest.mark.parametrize("rules", [(REQUESTS, TOKENS), (TOKENS, REQUESTS)])
async def test_a_repeat_is_recognised_by_the_caps_when_its_marker_was_evicted(
    open_budgets: Open, server: RedisServer, rules: tuple[Rate | Cap, ...]
) -> None:
    budgets, by_hour = open_budgets(*rules), open_budgets(REQUESTS)
    amounts = {"requests": 6, "tokens": 100}
    await granted(budgets, amounts, lease="mine")
    server.admin.delete(*server.matching("okome:*:lease:*"))
    lease = await granted(budgets, amounts, lease="mine")  # 12 would be over the rate
    assert (await left(budgets), await left(by_hour, "requests")) == (900, 4)
    await budgets.commit(lease, {"requests": 5})  # gives one back: the marker is there again
    assert await left(by_hour, "requests") == 5
    server.admin.delete(*server.matching("okome:*:lease:*"))
    assert (await budgets.reserve(ANN, amounts, lease="mine")).outcome is Outcome.SETTLED
    assert (await left(budgets), await left(by_hour, "requests")) == (900, 5)


async def test_a_settled_rate_gives_no_more_work(open_budgets: Open) -> None:
    budgets = open_budgets(REQUESTS)
    await budgets.commit(await granted(budgets, {"requests": 1}, lease="mine"))
    assert (await budgets.reserve(ANN, {"requests": 1}, lease="mine")).outcome is Outcome.SETTLED
    assert await left(budgets, "requests") == 9


async def test_the_same_id_for_something_else_is_another_lease(open_budgets: Open) -> None:
    budgets = open_budgets(TOKENS)
    small = await granted(budgets, {"tokens": 10}, lease="mine")
    large = await granted(budgets, {"tokens": 500}, lease="mine")
    assert (await budgets.reserve(ANN, {"tokens": 900}, lease="mine")).outcome is Outcome.DENIED
    other = await budgets.reserve({"user": "bob"}, {"tokens": 1000}, lease="mine")
    assert other.lease is not None
    for lease in (small, large, other.lease):
        assert await budgets.start(lease)
        await budgets.commit(lease)
    assert await left(budgets) == 490
    assert (await budgets.reserve({"user": "bob"}, {"tokens": 1})).outcome is Outcome.DENIED


async def test_an_expired_lease_is_refunded_unless_it_started(
    open_budgets: Open, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    waiting = await granted(budgets, {"tokens": 300})
    started = await granted(budgets, {"tokens": 200})
    assert await budgets.start(started)
    assert await left(budgets) == 500
    expire(server, waiting, started)
    assert await left(budgets) == 800
    await budgets.commit(started, {"tokens": 120})  # late, but it tells what it really was
    assert await left(budgets) == 880


async def test_a_late_start_is_reserved_anew_or_refused(open_budgets: Open, server: RedisServer) -> None:
    budgets = open_budgets(TOKENS)
    early, late = await granted(budgets, {"tokens": 300}), await granted(budgets, {"tokens": 300})
    expire(server, early, late)
    await granted(budgets, {"tokens": 600})
    assert await budgets.start(early)
    assert not await budgets.start(late)


@pytest.mark.parametrize("loss", ["evicted", "restarted"])
async def test_lost_state_is_noticed_and_rebuilt_from_the_ledger(
    own_server: RedisServer, own_client: Redis, open_budgets: Open, loss: str
) -> None:
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)

    def lose() -> None:
        if loss == "evicted":
            own_server.admin.delete(*own_server.matching("okome:*:cap:*"))
        else:
            own_server.kill()
            own_server.start()

    spent = await granted(budgets, {"tokens": 400})
    await budgets.start(spent)
    await budgets.commit(spent, {"tokens": 350})
    running = await granted(budgets, {"tokens": 200})
    assert await budgets.start(running)
    never_started = await granted(budgets, {"tokens": 50})

    lose()
    assert await left(budgets) == 1000 - 350 - 200
    assert await budgets.start(never_started)
    assert await left(budgets) == 1000 - 350 - 200 - 50
    lose()
    await budgets.commit(running, {"tokens": 100})
    await budgets.commit(spent, {"tokens": 350})  # once more
    assert await left(budgets) == 1000 - 350 - 100 - 50
    assert budgets.counts["seeded"] >= 2


async def test_every_loss_is_noticed(open_budgets: Open, server: RedisServer) -> None:
    """Not one of many losses resurrects a single token."""
    budgets = open_budgets(TOKENS)
    for n in range(20):
        lease = await granted(budgets, {"tokens": 50})
        if n % 3 == 0:
            server.admin.flushall()
        assert await budgets.start(lease)
        if n % 3 == 1:
            server.admin.delete(*server.matching("okome:*:cap:*"))
        await budgets.commit(lease)
        if n % 3 == 2:
            server.admin.flushall()
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED


async def test_a_lost_counter_with_a_broken_ledger_is_503(
    open_budgets: Open, ledger: Ledger, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    await granted(budgets, {"tokens": 1})
    server.admin.flushall()
    ledger._thread.submit(ledger._connection.execute, "DROP TABLE entries").result()
    decision = await budgets.reserve(ANN, {"tokens": 1})
    assert (decision.outcome, decision.status_code) == (Outcome.STATE_LOST, 503)


async def test_start_is_refused_if_the_ledger_does_not_take_it(open_budgets: Open, ledger: Ledger) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100})
    ledger._thread.submit(ledger._connection.execute, "DROP TABLE entries").result()
    assert not await budgets.start(lease)
    assert await left(budgets) == 1000
    assert budgets.counts["ledger_failed"] == 1


async def test_the_ledger_is_append_only(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.settle("lease", [("counter", 5)], at=1.0)
    connection = sqlite3.connect(tmp_path / "spent.sqlite")
    for statement in ("UPDATE entries SET amount = 0", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


async def test_hard_caps_without_a_ledger_are_refused_on_an_evicting_server(
    own_client: Redis, open_budgets: Open
) -> None:
    """CN01's application user may not even ask; that counts as evicting."""
    with pytest.raises(EvictingServerError, match="not told"):
        async with open_budgets(TOKENS, redis=own_client, ledger=None):
            pass
    with pytest.raises(EvictingServerError):
        await open_budgets(TOKENS, redis=own_client, ledger=None).reserve(ANN, {"tokens": 1})
    async with open_budgets(REQUESTS, redis=own_client, ledger=None):
        pass


@pytest.mark.parametrize("policy", ["allkeys-lru", "noeviction"])
async def test_without_a_ledger_the_epoch_is_the_seed_mark(
    own_server: RedisServer, own_client: Redis, open_budgets: Open, policy: str
) -> None:
    own_server.admin.config_set("maxmemory-policy", policy)
    own_server.admin.acl_setuser("okome", enabled=True, commands=["+info"])
    budgets = open_budgets(TOKENS, redis=own_client, ledger=None)
    if policy != "noeviction":
        with pytest.raises(EvictingServerError, match=policy):
            await budgets.check()
        return
    async with budgets:
        assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.STATE_LOST
        await budgets.initialise()
        lease = await granted(budgets, {"tokens": 900})
        assert await left(budgets) == 100
        own_server.admin.flushall()
        assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.STATE_LOST
        with pytest.raises(StateLostError):
            await budgets.commit(lease)


@pytest.mark.parametrize("state", ["dead", "hung"])
async def test_without_redis_caps_fail_closed_and_rates_to_a_share(
    own_server: RedisServer, own_client: Redis, open_budgets: Open, state: str
) -> None:
    patience = 0.5 if state == "hung" else 30  # who is dead says no at once
    client = connect(own_server.url, timeout=patience)
    both = open_budgets(REQUESTS, TOKENS, redis=client, redis_timeout=patience)
    rates = open_budgets(REQUESTS, redis=client, local_share=0.5, redis_timeout=patience)
    deny = open_budgets(REQUESTS, redis=client, on_unavailable="deny", redis_timeout=patience)
    await granted(open_budgets(REQUESTS, redis=own_client), {"requests": 1})
    if state == "dead":
        own_server.kill()
    else:
        own_server.pause()
    decision = await both.reserve(ANN, {"requests": 1, "tokens": 1})
    assert (decision.outcome, decision.status_code) == (Outcome.UNAVAILABLE, 503)
    assert decision.headers() == {"Retry-After": "1"}
    assert (await deny.reserve(ANN, {"requests": 1})).outcome is Outcome.UNAVAILABLE
    outcomes = [(await rates.reserve(ANN, {"requests": 1})).outcome for _ in range(7)]
    assert outcomes == [Outcome.ALLOWED] * 5 + [Outcome.DENIED] * 2
    assert (rates.counts["allowed_locally"], rates.counts["denied_locally"]) == (5, 2)
    assert both.counts["unavailable"] == 1
    if state == "hung":
        own_server.resume()
    await client.aclose()


async def test_spent_while_redis_was_gone_is_remembered(
    own_server: RedisServer, own_client: Redis, open_budgets: Open
) -> None:
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)
    lease = await granted(budgets, {"tokens": 400})
    assert await budgets.start(lease)
    own_server.kill()
    await budgets.commit(lease, {"tokens": 700})
    own_server.start()
    assert await left(budgets) == 300
    assert budgets.counts["unsettled"] == 1


@pytest.mark.parametrize("settled", ["committed", "cancelled"])
async def test_spent_while_redis_was_unreachable_is_remembered(
    own_server: RedisServer, own_client: Redis, open_budgets: Open, settled: str
) -> None:
    """Its counter survives with the old reservation, so nothing tells that it knows too little."""
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)
    lease, later = await granted(budgets, {"tokens": 10}), await granted(budgets, {"tokens": 150})
    assert await budgets.start(lease)
    if settled == "committed":
        with own_server.unreachable():
            await budgets.commit(lease, {"tokens": 900})
    else:
        commit = asyncio.create_task(budgets.commit(lease, {"tokens": 900}))
        await asyncio.sleep(0)  # it has begun: the ledger is writing
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    assert own_server.matching("okome:*:cap:*")
    assert not await budgets.start(later)
    assert (await budgets.reserve(ANN, {"tokens": 900})).outcome is Outcome.DENIED
    assert await left(budgets) == 100


@pytest.mark.parametrize("again", ["a reservation", "a check"])
async def test_spent_while_redis_was_unreachable_is_remembered_after_a_restart(
    own_server: RedisServer, own_client: Redis, open_budgets: Open, again: str
) -> None:
    """The process that knew is gone; the counter in Redis lives on, and knows of the old reservation only."""
    budgets = open_budgets(TOKENS, COST, redis=own_client, breaker=0)
    lease = await granted(budgets, {"tokens": 10, "cost": 10})
    assert await budgets.start(lease)
    with own_server.unreachable():
        await budgets.commit(lease, {"tokens": 900, "cost": 400})
        restarted = open_budgets(TOKENS, COST, redis=own_client, breaker=0)
        await restarted.check()
        assert (await restarted.reserve(ANN, {"tokens": 0})).outcome is Outcome.UNAVAILABLE
    if again == "a check":
        await restarted.check()
    before = own_server.matching("okome:*:cap:*")
    assert len(before) == 2
    assert (await restarted.reserve(ANN, {"tokens": 101})).outcome is Outcome.DENIED
    assert await left(restarted) == 100
    assert await left(restarted, "cost") == 100
    assert restarted.counts["seeded"] == 2


async def test_a_restart_forgets_only_what_the_ledger_can_tell_of_this_period(
    open_budgets: Open, ledger: Ledger, redis: Redis, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    await budgets.commit(await granted(budgets, {"tokens": 1}))
    (key,) = (key.decode() for key in server.matching("okome:*:cap:*"))
    others = [key.replace("{test}", "{other}"), key.rpartition("-")[0] + "-86400"]
    for other in others:
        await ledger.settle("lease", [(other, 5)], at=1.0)
        await redis.hset(other, "s", "5")
    restarted = open_budgets(TOKENS)
    await restarted.check()
    assert restarted._reseeding.stale == {key}
    assert await left(restarted) == 999
    assert set(server.matching("okome:*:cap:*")) == {name.encode() for name in (key, *others)}


async def test_a_ledger_that_cannot_be_read_at_first_decides_nothing(
    open_budgets: Open, ledger: Ledger
) -> None:
    ledger._thread.submit(ledger._connection.execute, "ALTER TABLE entries RENAME TO hidden").result()
    budgets = open_budgets(TOKENS)
    with pytest.raises(sqlite3.Error):
        await budgets.check()
    decision = await budgets.reserve(ANN, {"tokens": 1})
    assert (decision.outcome, decision.headers()) == (Outcome.STATE_LOST, {"Retry-After": "1"})
    ledger._thread.submit(ledger._connection.execute, "ALTER TABLE hidden RENAME TO entries").result()
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.ALLOWED


async def test_a_start_that_is_refused_gives_the_lease_back(open_budgets: Open, server: RedisServer) -> None:
    budgets = open_budgets(REQUESTS, TOKENS)
    late = await granted(budgets, {"requests": 1, "tokens": 300})
    expire(server, late)
    taken = await granted(budgets, {"tokens": 800})
    assert not await budgets.start(late)
    await budgets.refund(taken)
    assert not await budgets.start(late), "it is over"
    assert (await left(budgets), await left(budgets, "requests")) == (1000, 10)
    server.admin.flushall()
    assert await left(budgets) == 1000


@pytest.mark.parametrize(("other", "fits"), [(600, False), (400, True)])
async def test_a_start_fits_even_if_another_rebuilt_the_counter_meanwhile(
    open_budgets: Open, server: RedisServer, monkeypatch: pytest.MonkeyPatch, other: int, fits: bool
) -> None:
    """The ledger has its row, so the rebuilt counter holds it: that alone is no permission."""
    one, two, three = (open_budgets(TOKENS) for _ in range(3))
    late = await granted(one, {"tokens": 600})
    server.admin.flushall()
    assert await two.start(await granted(two, {"tokens": other}))
    begin = one._settlement._start_in_redis

    async def rebuilt_first(*arguments: Any) -> Said | None:
        server.admin.flushall()
        await three.reserve(ANN, {"tokens": 0})
        assert three.counts["seeded"] == 1
        return await begin(*arguments)

    monkeypatch.setattr(one._settlement, "_start_in_redis", rebuilt_first)
    assert await one.start(late) is fits
    assert await left(three) == (0 if fits else 400)


async def test_a_start_that_is_refused_gives_the_lease_back_without_a_ledger(
    own_server: RedisServer, own_client: Redis, open_budgets: Open
) -> None:
    own_server.admin.acl_setuser("okome", enabled=True, commands=["+info"])
    budgets = open_budgets(REQUESTS, TOKENS, redis=own_client, ledger=None)
    await budgets.initialise()
    late = await granted(budgets, {"requests": 1, "tokens": 300})
    expire(own_server, late)
    await granted(budgets, {"tokens": 800})
    assert not await budgets.start(late)
    assert await left(budgets, "requests") == 10
    assert budgets.counts["settled"] == 1


async def test_what_has_started_is_not_given_back_by_another_start(
    open_budgets: Open, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    working, large = await granted(budgets, {"tokens": 100}), await granted(budgets, {"tokens": 900})
    assert await budgets.start(working)
    await budgets.commit(large, {"tokens": 950})
    server.admin.flushall()
    assert not await budgets.start(working), "a rebuilt counter does not tell that it fitted"
    await budgets.commit(working, {"tokens": 40})
    assert await left(budgets) == 10


@pytest.mark.parametrize("lost", ["okome:*:cap:*", "*"])
@pytest.mark.parametrize("rebuilt_before", [False, True])
async def test_an_old_account_is_not_seeded_over_later_spending(
    open_budgets: Open,
    server: RedisServer,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    rebuilt_before: bool,
) -> None:
    """One process reads the ledger and stalls; another rebuilds the counter and spends, and it is lost again."""
    slow, other = open_budgets(TOKENS), open_budgets(TOKENS)
    read, rebuild, spent = ledger.account, slow._reseeding.rebuild, 0

    async def read_and_stall(counter: str, settled_since: float) -> Account:
        nonlocal spent
        account = await read(counter, settled_since)
        if not spent:
            spent = 900
            lease = await granted(other, {"tokens": spent})
            assert await other.start(lease)
            await other.commit(lease)
            server.admin.delete(*server.matching(lost))
        return account

    async def rebuild_what_is_there(charge: Any) -> bool:
        await left(other)
        return await rebuild(charge)

    monkeypatch.setattr(ledger, "account", read_and_stall)
    if rebuilt_before:
        monkeypatch.setattr(slow._reseeding, "rebuild", rebuild_what_is_there)
        as_it_is = Ledger(tmp_path / "spent.sqlite")
        monkeypatch.setattr(other._reseeding, "_ledger", as_it_is)
        monkeypatch.setattr(other._settlement, "_ledger", as_it_is)
    assert await left(slow) == 1000 - spent
    assert await left(other) == 1000 - spent
    assert not server.matching("okome:*:seed:*")
    if rebuilt_before:
        as_it_is.close()


async def test_an_old_account_is_not_seeded_over_a_dropped_counter(
    own_server: RedisServer,
    own_client: Redis,
    open_budgets: Open,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was settled without Redis since it was read is in the ledger alone."""
    slow, other = (open_budgets(TOKENS, redis=own_client, breaker=0) for _ in range(2))
    lease = await granted(other, {"tokens": 10})
    own_server.admin.flushall()
    read, reads = ledger.account, 0

    async def read_and_stall(counter: str, settled_since: float) -> Account:
        nonlocal reads
        account = await read(counter, settled_since)
        reads += 1
        if reads == 1:
            with own_server.unreachable():
                await other.commit(lease, {"tokens": 900})
            await other._reseeding.drop_stale()
        return account

    monkeypatch.setattr(ledger, "account", read_and_stall)
    assert await left(slow) == 100
    assert reads == 2


async def killed_in_its_start(server: RedisServer, path: Path, when: str) -> None:
    """A process that reserves 300 and starts, and is killed (-9) at some point of that."""
    book = sqlite3.connect(path, isolation_level=None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.unit.okome.start_a_lease", server.url, str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"reserved\n"
            if when == "before the ledger has it":
                book.execute("BEGIN IMMEDIATE")
            elif when == "before Redis has it":
                server.pause()
            process.send_signal(signal.SIGUSR1)
            if when == "before the ledger has it":
                await asyncio.sleep(0.2)
            elif when == "before Redis has it":
                while not book.execute("SELECT * FROM entries").fetchall():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            else:
                assert await process.stdout.readline() == b"started\n"
    finally:
        process.kill()
        await process.wait()
        server.resume()
        book.close()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("when", "charged"),
    [
        ("before the ledger has it", {0}),
        ("before Redis has it", {0, 300}),  # the call was under way, or not yet
        ("after it began", {300}),
    ],
)
async def test_what_began_is_charged_when_a_process_is_killed(
    open_budgets: Open, server: RedisServer, tmp_path: Path, when: str, charged: set[int], lost: bool
) -> None:
    budgets = open_budgets(TOKENS, lease_ttl=0.2, started_ttl=0.2)
    await killed_in_its_start(server, tmp_path / "spent.sqlite", when)
    if lost:
        server.admin.flushall()
    await asyncio.sleep(0.3)
    spent = 1000 - await left(budgets)
    assert spent in charged
    if lost and when == "before Redis has it":
        assert spent == 300, "by the ledger, it may have begun"


@pytest.mark.parametrize("how", ["a key that is not ours", "no memory"])
async def test_a_refusal_is_no_outage(open_budgets: Open, server: RedisServer, how: str) -> None:
    """By default an outage would close everybody's hard caps for a second."""
    budgets = open_budgets(TOKENS)
    await granted(budgets, {"tokens": 1})
    (key,) = server.matching("okome:*:cap:*")
    if how == "no memory":
        server.admin.config_set("maxmemory", 1)
    else:
        server.admin.set(key, "not ours")
    try:
        assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.UNAVAILABLE
    finally:
        server.admin.config_set("maxmemory", 0)
    assert (await budgets.reserve({"user": "bob"}, {"tokens": 1})).outcome is Outcome.ALLOWED


async def test_script_flush(open_budgets: Open, server: RedisServer) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100})
    server.admin.script_flush()
    assert await budgets.start(lease)
    server.admin.script_flush()
    await budgets.commit(lease)
    server.admin.script_flush()
    assert await left(budgets) == 900


async def test_the_period_is_by_redis_and_not_by_our_clock(open_budgets: Open) -> None:
    """A process whose idea of the time is 40 days off still charges today's counter."""
    off = Clock()
    true, wrong = open_budgets(TOKENS), open_budgets(TOKENS, clock=off)
    await granted(true, {"tokens": 100})
    off.observe(off.monotonic(), int(datetime.now(UTC).timestamp()) + 40 * 86400, 0)
    assert await left(wrong) == 900


@pytest.mark.parametrize(
    ("period", "now", "begin", "end"),
    [
        (Period.HOUR, "2026-12-31T23:59:59", "2026-12-31T23:00:00", "2027-01-01T00:00:00"),
        (Period.DAY, "2028-02-28T12:00:00", "2028-02-28T00:00:00", "2028-02-29T00:00:00"),
        (Period.MONTH, "2028-02-29T00:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        (Period.MONTH, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_periods(period: Period, now: str, begin: str, end: str) -> None:
    def at(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert period.around(at(now)) == (at(begin), at(end))


async def test_bad_input_is_refused(open_budgets: Open, redis: Redis) -> None:
    budgets = open_budgets(TOKENS)
    for amount in (-1, 1.5, True, 2**53, "7"):
        with pytest.raises(ValueError, match="whole number"):
            await budgets.reserve(ANN, {"tokens": amount})  # type: ignore[dict-item]  # bad
    with pytest.raises(ValueError, match="user"):
        await budgets.reserve({}, {"tokens": 1})
    with pytest.raises(ValueError, match="same name"):
        Budgets(redis, rules=[TOKENS, TOKENS])
    with pytest.raises(ValueError, match="headers"):
        Cap(name="a b", by=("user",), unit="tokens", limit=1)


async def test_no_key_tells_who_it_is_for(open_budgets: Open, server: RedisServer) -> None:
    await granted(open_budgets(REQUESTS, TOKENS), {"requests": 1, "tokens": 1}, lease="ann's")
    for key in server.matching("*"):
        assert b"ann" not in key + server.value(key)


async def test_answers_cut_off_after_the_call_was_carried_out_charge_once(
    open_budgets: Open, server: RedisServer, tmp_path: Path
) -> None:
    async with Proxy(server.socket, tmp_path / "proxy.sock") as proxy:
        client = connect(server.url.replace(str(server.socket), str(proxy.listen)), timeout=30)
        far, near = open_budgets(REQUESTS, TOKENS, redis=client), open_budgets(REQUESTS, TOKENS)
        await near.check()
        await far.refund(await granted(far, {"requests": 1, "tokens": 1}))  # the scripts are known
        for commits in (True, False):
            proxy.cut_after_send = 1
            lease = await granted(far, {"requests": 2, "tokens": 300})
            proxy.cut_after_send = 1
            assert await far.start(lease)
            proxy.cut_after_send = 1
            await (far.commit(lease, {"requests": 1, "tokens": 200}) if commits else far.refund(lease))
            assert proxy.cut_after_send == 0
            assert (await left(near), await left(near, "requests")) == (800, 9)
        assert far.counts["unavailable"] == far.counts["unsettled"] == 0
        await client.aclose()
