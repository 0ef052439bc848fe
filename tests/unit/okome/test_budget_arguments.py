"""A slip of who budgets is said at the call, by the argument's name; a budget never fails open on one."""

import math
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from okome import (
    Budgets,
    Cap,
    Metered,
    Outcome,
    OverBudgetError,
    Period,
    Rate,
)
from okome.local_share import LocalShare
from okome.rules import Charge
from tests.unit.okome.caches import Open
from tests.unit.okome.spending import ANN, REQUESTS, TOKENS, OpenBudgets, granted

pytestmark = pytest.mark.anyio


async def test_what_is_metered_is_said(open_budgets: OpenBudgets, open_cache: Open) -> None:
    wrong: Any
    for wrong in (None, Budgets, open_cache()):
        with pytest.raises(TypeError, match="budgets are Budgets"):
            Metered(wrong, ANN, {"tokens": 1})
    metered = Metered(open_budgets(TOKENS), ANN, {"tokens": 1})
    for wrong in (None, 5, b"answer"):
        with pytest.raises(TypeError, match="ask is an async function"):
            metered.compute(wrong)
        with pytest.raises(TypeError, match="produce is an async generator's function"):
            metered.stream(wrong)
    plain: Any = lambda spent: b"answer"  # noqa: E731
    with pytest.raises(TypeError, match="ask is an async function"):
        await metered.compute(plain)()
    with pytest.raises(TypeError, match="produce is an async generator's function"):
        await anext(metered.stream(plain)())
    with pytest.raises(TypeError, match="decision is what Budgets"):
        OverBudgetError(None)  # type: ignore[arg-type]  # on purpose


# Rules


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"limit": 2.5}, TypeError, "limit"),
        ({"limit": True}, TypeError, "limit"),
        ({"limit": -1}, ValueError, "limit"),
        ({"limit": 2**53}, ValueError, "limit"),
        ({"by": "user"}, TypeError, "by"),
        ({"by": (None,)}, TypeError, "dimension"),
        ({"where": "free"}, TypeError, "where"),
        ({"where": {"tier": 1}}, TypeError, "dimension"),
        ({"name": None}, TypeError, "name"),
        ({"unit": 3}, TypeError, "unit"),
    ],
)
def test_a_rule_is_what_it_says(change: dict[str, Any], kind: type[Exception], said: str) -> None:
    words: dict[str, Any] = {"name": "rule", "by": ("user",), "unit": "tokens", "limit": 10}
    for rule in (Rate, Cap):
        rule(**words)
        with pytest.raises(kind, match=said):
            rule(**words | change)


def test_a_period_may_be_named() -> None:
    day: Any = "day"
    cap = Cap(name="tpd", by=("user",), unit="tokens", limit=1, period=day)
    assert cap.period is Period.DAY
    for wrong in ("week", None, 86400):
        with pytest.raises(ValueError, match="tpd: the period is one of hour, day, month"):
            Cap(name="tpd", by=("user",), unit="tokens", limit=1, period=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"per": "60"}, TypeError),
        ({"per": math.nan}, ValueError),
        ({"burst": 1.5}, TypeError),
        ({"burst": 0}, ValueError),
        ({"burst": 11}, ValueError),
    ],
)
def test_a_rate_has_numbers(change: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"burst|per"):
        Rate(name="rpm", by=("user",), unit="requests", limit=10, **change)


@pytest.mark.parametrize("rule", [Rate, Cap])
async def test_a_limit_of_nothing_is_for_nobody(open_budgets: OpenBudgets, rule: Any) -> None:
    nobody = rule(name="closed", by=("user",), unit="tokens", limit=0)
    budgets = open_budgets(nobody)
    denied = await budgets.reserve(ANN, {"tokens": 1})
    assert (denied.outcome, denied.rule, denied.retry_after) == (Outcome.DENIED, "closed", None)
    assert denied.quotas[0].remaining == 0
    assert (await budgets.reserve(ANN, {"tokens": 0})).outcome is Outcome.ALLOWED


def test_a_limit_of_nothing_has_no_share() -> None:
    nobody = Rate(name="closed", by=("user",), unit="tokens", limit=0)
    refused = LocalShare(0.25, lambda: 0.0).take([Charge(nobody, "key", b"key", 1)])
    assert refused is not None
    assert refused.retry_after is None


# What is asked of budgets


@pytest.mark.parametrize("name", ["lease_ttl", "started_ttl", "retention", "redis_timeout", "breaker"])
async def test_budgets_have_lifetimes(open_budgets: OpenBudgets, name: str) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-1, ValueError),
        (True, TypeError),
        ("5", TypeError),
        (None, TypeError),
    ]
    for value, kind in wrong:
        with pytest.raises(kind, match=f"{name} is a .*number of seconds"):
            open_budgets(TOKENS, **{name: value})
    if name != "breaker":
        with pytest.raises(ValueError, match=f"{name} is a positive number"):
            open_budgets(TOKENS, **{name: 0})


@pytest.mark.parametrize("share", ["0.5", True, None])
async def test_a_share_is_a_number(open_budgets: OpenBudgets, share: Any) -> None:
    with pytest.raises(TypeError, match="local_share is a number"):
        open_budgets(TOKENS, local_share=share)


async def test_rules_are_rules(open_budgets: OpenBudgets) -> None:
    with pytest.raises(TypeError, match="rules are several Rates and Caps"):
        open_budgets("tpd")


@pytest.mark.parametrize(("lease", "kind"), [("", ValueError), (5, TypeError), (True, TypeError)])
async def test_a_lease_is_named(open_budgets: OpenBudgets, lease: Any, kind: type[Exception]) -> None:
    budgets = open_budgets(TOKENS)
    with pytest.raises(kind, match="lease is"):
        await budgets.reserve(ANN, {"tokens": 1}, lease=lease)


@pytest.mark.parametrize(
    ("user", "kind"),
    [(None, TypeError), (7, TypeError), ("", ValueError), (b"ann", TypeError), (["ann"], TypeError)],
)
async def test_a_subject_is_named(open_budgets: OpenBudgets, user: Any, kind: type[Exception]) -> None:
    budgets = open_budgets(TOKENS)
    with pytest.raises(kind, match="the subject's user"):
        await budgets.reserve({"user": user}, {"tokens": 1})


async def test_a_unit_that_no_rule_counts(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(TOKENS, REQUESTS)
    with pytest.raises(ValueError, match="'tokns' is counted by no rule: they count requests, tokens"):
        await budgets.reserve(ANN, {"requests": 1, "tokns": 5})


@pytest.mark.parametrize("change", [{"by": ("user", "tier")}, {"where": {"tier": "free"}}])
async def test_a_dimension_that_a_rule_asks_for(open_budgets: OpenBudgets, change: dict[str, Any]) -> None:
    words: dict[str, Any] = {"name": "tpd", "by": ("user",), "unit": "tokens", "limit": 10}
    budgets = open_budgets(Cap(**words | change))
    with pytest.raises(ValueError, match="tpd asks for 'tier', which the subject does not say"):
        await budgets.reserve({"user": "ann"}, {"tokens": 1})


async def test_what_costs_nothing_says_so(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(TOKENS)
    with pytest.raises(ValueError, match="amounts is empty"):
        await budgets.reserve(ANN, {})
    assert (await budgets.reserve(ANN, {"tokens": 0})).outcome is Outcome.ALLOWED


@pytest.mark.parametrize("wrong", [None, "ann", 5, ["user"], ("user", "ann")])
async def test_a_subject_and_amounts_are_mappings(open_budgets: OpenBudgets, wrong: Any) -> None:
    budgets = open_budgets(TOKENS)
    with pytest.raises(TypeError, match=r"subject is .dimension: name., not"):
        await budgets.reserve(wrong, {"tokens": 1})
    with pytest.raises(TypeError, match=r"amounts is .unit: amount., not"):
        await budgets.reserve(ANN, wrong)
    lease = await granted(budgets, {"tokens": 1})
    if wrong is not None:
        with pytest.raises(TypeError, match=r"actual is .unit: amount., not"):
            await budgets.commit(lease, wrong)
    for call in (budgets.start, budgets.commit, budgets.refund):
        with pytest.raises(TypeError, match="lease is that of a Decision"):
            await call(wrong)
    with pytest.raises(TypeError, match="lease is that of a Decision"):
        budgets.commit_soon(wrong)


@pytest.mark.parametrize("ledger", ["spent.sqlite", Path("spent.sqlite"), 5, True])
async def test_a_ledger_is_one(open_budgets: OpenBudgets, ledger: Any) -> None:
    with pytest.raises(TypeError, match="ledger is a Ledger, as Ledger"):
        open_budgets(TOKENS, ledger=ledger)


@pytest.mark.parametrize("rules", [None, 5, TOKENS, [TOKENS, None], {"tpd": TOKENS}, iter([TOKENS])])
async def test_rules_are_a_list_of_them(redis: Redis, rules: Any) -> None:
    with pytest.raises(TypeError, match="rules are several Rates and Caps"):
        Budgets(redis, rules=rules)


@pytest.mark.parametrize("by", [None, 5, "user", ("user", None)])
def test_dimensions_are_several_names(by: Any) -> None:
    with pytest.raises(TypeError, match=r"tpd: (by is several|a) dimension"):
        Cap(name="tpd", by=by, unit="tokens", limit=10)


async def test_only_what_was_reserved_is_committed(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(TOKENS, REQUESTS)
    lease = await granted(budgets, {"requests": 1})
    with pytest.raises(ValueError, match="'tokens' was not reserved: the lease is for requests"):
        await budgets.commit(lease, {"tokens": 900})
    with pytest.raises(ValueError, match="not reserved"):
        budgets.commit_soon(lease, {"tokens": 900})


async def test_a_unit_that_is_not_counted_for_everybody_may_be_committed(open_budgets: OpenBudgets) -> None:
    free = Cap(name="tpd", by=("user",), unit="tokens", limit=10, where={"tier": "free"})
    budgets = open_budgets(free)
    decision = await budgets.reserve({"user": "bob", "tier": "paid"}, {"tokens": 900})
    assert decision.lease is not None
    await budgets.commit(decision.lease, {"tokens": 950})
