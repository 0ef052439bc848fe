"""A server's clock that was an hour ahead, and then was set right: nobody is locked out, and nothing lives on.

What Redis holds is put where it would be if it had been written an hour later: the same as a clock that went back.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Cap, Outcome, Rate, budget_wire
from okome.connection import Script
from tests.unit.okome.spending import ANN, TOKENS, OpenBudgets, granted, left, moved
from tests.unit.okome.waiting import PATIENCE

pytestmark = pytest.mark.anyio
HOUR = 3600.0
DAY = 86400


def set_back(server: RedisServer) -> None:
    """As if all that is stored had been written by a clock an hour ahead."""
    redis: Any = server.admin
    for key in redis.scan_iter("*"):
        kind = redis.type(key)
        if b":window:" in key:
            redis.set(key, moved(redis.get(key), HOUR), px=7_200_000)
        elif kind == b"hash":
            for name, value in (redis.hgetall(key)).items():
                if name[:2] in (b"L:", b"T:"):
                    state, amount, expiry = value.split()
                    later = b"%b %b %d" % (state, amount, int(expiry) + 3_600_000)
                    redis.hset(key, name, later)
                elif name == b"n" and int(value):
                    redis.hset(key, name, int(value) + 3_600_000)


async def test_nobody_is_locked_out_of_a_rate(open_budgets: OpenBudgets, server: RedisServer) -> None:
    per_minute = Rate(name="rpm", by=("user",), unit="requests", limit=60, per=60)
    budgets = open_budgets(per_minute)
    await granted(budgets, {"requests": 60})
    set_back(server)
    denied = await budgets.reserve(ANN, {"requests": 60})
    assert denied.outcome is Outcome.DENIED
    assert denied.retry_after is not None
    assert denied.retry_after <= 60


@pytest.mark.parametrize("debt", [0, 60])
async def test_what_was_brought_back_goes_by(
    open_budgets: OpenBudgets, server: RedisServer, debt: int
) -> None:
    """Though everybody who asks meanwhile is denied, which is often."""
    per_second = Rate(name="rps", by=("user",), unit="requests", limit=60, per=1)
    budgets = open_budgets(per_second)
    lease = await granted(budgets, {"requests": 60})
    await budgets.start(lease)
    await budgets.commit(lease, {"requests": 60 + debt})
    set_back(server)
    outcomes = []
    async with asyncio.timeout(PATIENCE):
        while Outcome.ALLOWED not in outcomes:
            outcomes.append((await budgets.reserve(ANN, {"requests": 60})).outcome)
            await asyncio.sleep(0.05)
    assert outcomes[0] is Outcome.DENIED


async def test_a_debt_lasts_as_long_as_it_would_have(open_budgets: OpenBudgets, server: RedisServer) -> None:
    per_minute = Rate(name="rpm", by=("user",), unit="requests", limit=60, per=60)
    budgets = open_budgets(per_minute)
    lease = await granted(budgets, {"requests": 60})
    await budgets.start(lease)
    await budgets.commit(lease, {"requests": 180})
    before = await budgets.reserve(ANN, {"requests": 1})
    set_back(server)
    after = await budgets.reserve(ANN, {"requests": 1})
    assert before.retry_after is not None
    assert after.retry_after is not None
    assert 60 < before.retry_after <= after.retry_after <= 121  # it begins anew, and is no longer
    assert after.debt["rpm"] == pytest.approx(120, abs=30)


async def test_a_lease_expires(open_budgets: OpenBudgets, server: RedisServer) -> None:
    budgets = open_budgets(TOKENS, lease_ttl=0.2, started_ttl=0.3)
    await granted(budgets, {"tokens": 400})
    started = await granted(budgets, {"tokens": 100})
    assert await budgets.start(started)
    set_back(server)
    assert await left(budgets) == 500
    redis: Any = server.admin
    (cap,) = redis.scan_iter("*:cap:*")
    seconds, microseconds = redis.time()
    longest = seconds * 1000 + microseconds // 1000 + 300
    for name, value in (redis.hgetall(cap)).items():
        if name[:2] == b"L:" and not value.startswith(b"N 0 "):
            assert int(value.split()[2]) <= longest


async def test_what_has_not_begun_is_held_no_longer_than_it_can_be(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    """Though what has begun may go on for long."""
    budgets = open_budgets(TOKENS, lease_ttl=0.2, started_ttl=900)
    await granted(budgets, {"tokens": 400})
    assert await budgets.start(await granted(budgets, {"tokens": 100}))
    set_back(server)
    async with asyncio.timeout(PATIENCE):
        while await left(budgets) != 900:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def at(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock by which the scripts go to so many days after noon of this one."""
    now: Any = server.admin.time()
    noon = now[0] // DAY * DAY + DAY // 2
    ours = {}
    for name in ("RESERVE", "START", "SETTLE"):
        script = getattr(budget_wire, name)
        source = script.source.replace("redis_call('TIME')", "redis_call('HMGET', 'okome:clock', 's', 'us')")
        assert source != script.source
        ours[name] = Script(source)
        monkeypatch.setattr(budget_wire, name, ours[name])
    monkeypatch.setattr(budget_wire, "_RANKS", dict(zip(ours.values(), (1, 2, 3), strict=True)))

    def set_clock(days: float) -> None:
        server.admin.hset("okome:clock", mapping={"s": noon + round(days * DAY), "us": 0})

    return set_clock


async def test_a_day_that_came_too_early_leaves_this_one_as_it_was(
    open_budgets: OpenBudgets, at: Callable[[float], None]
) -> None:
    """What is asked for meanwhile is of that day, what was reserved before is of this one."""
    budgets = open_budgets(TOKENS)
    at(0)
    await budgets.commit(await granted(budgets, {"tokens": 300}))
    before = await granted(budgets, {"tokens": 100})
    assert await budgets.start(before)
    at(1)
    early = await granted(budgets, {"tokens": 500})
    assert await budgets.start(early)
    await budgets.commit(before, {"tokens": 50})
    assert await left(budgets) == 500
    at(0.1)
    assert await left(budgets) == 650
    await budgets.commit(early)
    assert await left(budgets) == 650
    at(1.1)
    assert await left(budgets) == 500


async def test_a_lease_that_was_over_in_that_day_is_settled_all_the_same(
    open_budgets: OpenBudgets, at: Callable[[float], None]
) -> None:
    budgets = open_budgets(TOKENS)
    at(0)
    started, late = await granted(budgets, {"tokens": 300}), await granted(budgets, {"tokens": 100})
    assert await budgets.start(started)
    at(0.2)
    assert await left(budgets) == 700, "it was charged, the other refunded"
    at(0)
    assert await budgets.start(late)
    await budgets.commit(started, {"tokens": 20})
    await budgets.commit(late, {"tokens": 30})
    assert await left(budgets) == 950


async def test_a_counter_outlives_its_period_by_a_day_whatever_made_it(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets
) -> None:
    """So that a clock which was a day ahead finds it again, and none stays for ever."""
    own_server.admin.config_set("maxmemory-policy", "noeviction")
    own_server.admin.acl_setuser("okome", enabled=True, commands=["+info"])
    budgets = open_budgets(TOKENS, redis=own_client, ledger=None)
    await budgets.initialise()
    for call in ("reserve", "start", "settle"):
        lease = await granted(budgets, {"tokens": 100}, lease=call)
        if call != "reserve":
            own_server.admin.delete(*own_server.matching("okome:*:cap:*"))
        if call == "start":
            assert await budgets.start(lease)
        elif call == "settle":
            await budgets.commit(lease)
        (key,) = own_server.matching("okome:*:cap:*")
        life: Any = own_server.admin.ttl(key)
        assert DAY < life <= 2 * DAY


async def test_what_costs_nothing_passes_in_debt(open_budgets: OpenBudgets) -> None:
    hundred = Cap(name="tpd", by=("user",), unit="tokens", limit=100)
    smooth = Rate(name="tpm", by=("user",), unit="tokens", limit=100, per=600)
    budgets = open_budgets(hundred, smooth)
    lease = await granted(budgets, {"tokens": 100})
    assert await budgets.start(lease)
    await budgets.commit(lease, {"tokens": 150})
    free = await budgets.reserve(ANN, {"tokens": 0})
    assert free.outcome is Outcome.ALLOWED
    assert free.lease is not None
    assert await budgets.start(free.lease)
    assert free.debt == {"tpd": 50, "tpm": pytest.approx(50, abs=1)}
    assert {quota.remaining for quota in free.quotas} == {0}
    denied = await budgets.reserve(ANN, {"tokens": 1})
    assert (denied.outcome, denied.debt["tpd"]) == (Outcome.DENIED, 50)
    # To ask has not made the rate forget.
    again = await budgets.reserve(ANN, {"tokens": 0})
    assert again.debt["tpm"] == pytest.approx(50, abs=5)
