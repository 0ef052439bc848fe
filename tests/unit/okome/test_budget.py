"""Who may spend, against a real Redis, under the ACL of CN01."""

import math
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Budgets, Cap, EvictingServerError, Outcome, Rate, StateLostError, connect
from okome.connection import Clock
from tests.unit.okome.spending import ANN, COST, REQUESTS, TOKENS, OpenBudgets, granted, left

pytestmark = pytest.mark.anyio


async def test_gcra_gives_the_burst_then_says_when(open_budgets: OpenBudgets) -> None:
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


async def test_another_user_has_another_budget(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(TOKENS)
    await granted(budgets, {"tokens": 1000})
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED
    assert (await budgets.reserve({"user": "bob"}, {"tokens": 1000})).outcome is Outcome.ALLOWED


async def test_where_limits_a_rule_to_a_tier(open_budgets: OpenBudgets) -> None:
    free = Cap(name="free", by=("user",), unit="tokens", limit=10, where={"tier": "free"})
    budgets = open_budgets(free)
    assert (await budgets.reserve(ANN, {"tokens": 11})).outcome is Outcome.DENIED
    assert (await budgets.reserve(ANN | {"tier": "paid"}, {"tokens": 11})).outcome is Outcome.ALLOWED


async def test_all_or_nothing_a_denied_large_request_burns_no_quota(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(REQUESTS, TOKENS, COST)
    for _ in range(30):
        decision = await budgets.reserve(ANN, {"requests": 1, "tokens": 10, "cost": 501})
        assert (decision.outcome, decision.rule, decision.retry_after) == (Outcome.DENIED, "cost", None)
    assert [quota.remaining for quota in decision.quotas] == [10, 1000, 500]
    await granted(budgets, {"requests": 10, "tokens": 1000, "cost": 500})


async def test_one_command_per_decision(open_budgets: OpenBudgets, server: RedisServer) -> None:
    budgets = open_budgets(REQUESTS, TOKENS, COST)
    await granted(budgets, {"requests": 1, "tokens": 1, "cost": 1})
    server.forget_calls()
    await granted(budgets, {"requests": 1, "tokens": 1, "cost": 1})
    calls = server.calls()
    assert calls["evalsha"] == 1
    assert "eval" not in calls


@pytest.mark.parametrize("rules", [(REQUESTS, TOKENS), (TOKENS, REQUESTS)])
async def test_a_repeat_is_recognised_by_the_caps_when_its_marker_was_evicted(
    open_budgets: OpenBudgets, server: RedisServer, rules: tuple[Rate | Cap, ...]
) -> None:
    budgets, by_hour = open_budgets(*rules), open_budgets(REQUESTS)
    amounts = {"requests": 6, "tokens": 100}
    await granted(budgets, amounts, lease="mine")
    server.admin.delete(*server.matching("okome:*:lease:*"))
    lease = await granted(budgets, amounts, lease="mine")  # 12 would be over the rate
    assert (await left(budgets), await left(by_hour, "requests")) == (900, 4)
    await budgets.commit(lease, {"requests": 7})  # one more: the marker is there again
    assert await left(by_hour, "requests") == 3
    server.admin.delete(*server.matching("okome:*:lease:*"))
    assert (await budgets.reserve(ANN, amounts, lease="mine")).outcome is Outcome.SETTLED
    assert (await left(budgets), await left(by_hour, "requests")) == (900, 3)


async def test_the_same_id_for_something_else_is_another_lease(open_budgets: OpenBudgets) -> None:
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


async def test_hard_caps_without_a_ledger_are_refused_on_an_evicting_server(
    own_client: Redis, open_budgets: OpenBudgets
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
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets, policy: str
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
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets, state: str
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


@pytest.mark.parametrize("how", ["a key that is not ours", "no memory"])
async def test_a_refusal_is_no_outage(open_budgets: OpenBudgets, server: RedisServer, how: str) -> None:
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


async def test_script_flush(open_budgets: OpenBudgets, server: RedisServer) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100})
    server.admin.script_flush()
    assert await budgets.start(lease)
    server.admin.script_flush()
    await budgets.commit(lease)
    server.admin.script_flush()
    assert await left(budgets) == 900


async def test_the_period_is_by_redis_and_not_by_our_clock(open_budgets: OpenBudgets) -> None:
    """A process whose idea of the time is 40 days off still charges today's counter."""
    off = Clock()
    true, wrong = open_budgets(TOKENS), open_budgets(TOKENS, clock=off)
    await granted(true, {"tokens": 100})
    off.observe(off.monotonic(), int(datetime.now(UTC).timestamp()) + 40 * 86400, 0)
    assert await left(wrong) == 900


async def test_bad_input_is_refused(open_budgets: OpenBudgets, redis: Redis) -> None:
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


async def test_no_key_tells_who_it_is_for(open_budgets: OpenBudgets, server: RedisServer) -> None:
    await granted(open_budgets(REQUESTS, TOKENS), {"requests": 1, "tokens": 1}, lease="ann's")
    for key in server.matching("*"):
        assert b"ann" not in key + server.value(key)
