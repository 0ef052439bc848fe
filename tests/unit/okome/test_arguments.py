"""A slip is said at the call, by the argument's name; nothing is taken for something else."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from okome import (
    Cache,
    CachePolicy,
    Cap,
    Codec,
    Msgpack,
    Outcome,
    Period,
    Rate,
    connect,
    connect_cluster,
    connect_sentinel,
    key_of,
)
from okome.local_share import LocalShare
from okome.rules import Charge
from tests.unit.okome.caches import Open
from tests.unit.okome.spending import ANN, REQUESTS, TOKENS, OpenBudgets, granted

pytestmark = pytest.mark.anyio


async def _answer() -> bytes:
    return b"answer"


async def _chunks() -> Any:
    yield b"chunk"


# The cache


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("model:x", "tags are several names"),
        (b"model:x", "tags are several"),
        ([1], "a tag"),
        ([None], "a tag"),
    ],
)
async def test_tags_are_names(open_cache: Open, tags: Any, said: str) -> None:
    cache: Cache[Any] = open_cache()
    for call in (
        lambda: cache.get_or_compute("key", _answer, tags=tags),
        lambda: cache.stream("key", _chunks, complete=bool, tags=tags),
        lambda: cache.get("key", tags=tags),
        lambda: cache.put("key", b"answer", tags=tags),
    ):
        with pytest.raises(TypeError, match=said):
            await call()
    with pytest.raises(ValueError, match="a tag is empty"):
        await cache.get("key", tags=[""])
    with pytest.raises(TypeError, match="tag is a name"):
        await cache.invalidate_tag(None)  # type: ignore[arg-type]


def test_errors_worth_remembering_are_kinds_of_exceptions() -> None:
    several: Any = [ValueError, OSError]
    assert CachePolicy(negative_errors=several).negative_errors == (ValueError, OSError)
    for wrong in (ValueError, [ValueError("x")], "ValueError", (KeyboardInterrupt,), None):
        with pytest.raises(TypeError, match="negative_errors is a tuple"):
            CachePolicy(negative_errors=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("fresh", "300", TypeError),
        ("fresh", None, TypeError),
        ("fresh", True, TypeError),
        ("fresh", math.nan, ValueError),
        ("stale", math.inf, ValueError),
        ("negative", -1, ValueError),
        ("max_bytes", 10.5, TypeError),
        ("degraded_computes", 2.5, TypeError),
    ],
)
def test_a_policy_has_numbers(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        CachePolicy(**{name: value})


class Plain:
    """Nothing that msgspec knows."""


class Node(msgspec.Struct):
    children: "list[Node]"


@dataclass
class Holder:
    several: dict[str, list[Plain]]


@pytest.mark.parametrize("unknown", [Plain, list[Plain], Holder, Plain | None])
def test_a_codec_can_encode_its_type(unknown: Any) -> None:
    with pytest.raises(TypeError, match=r"can't encode .*Plain"):
        Msgpack(unknown)


def test_a_codec_takes_what_msgspec_knows() -> None:
    tree: Codec[Node] = Msgpack(Node)
    assert tree.decode(tree.encode(Node([Node([])]))) == Node([Node([])])
    for known in (int, dict[str, Any], tuple[bytes, ...], Period):
        Msgpack(known)


@pytest.mark.parametrize(("tenant", "kind"), [(None, TypeError), (7, TypeError), ("", ValueError)])
def test_a_tenant_is_a_name(tenant: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="tenant"):
        key_of({"model": "m"}, tenant=tenant)


@pytest.mark.parametrize("ignore", ["user", b"user"])
def test_fields_to_ignore_are_several(ignore: Any) -> None:
    with pytest.raises(TypeError, match="ignore is several fields"):
        key_of({"model": "m", "use": 1}, tenant="t", ignore=ignore)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"timeout": math.nan}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": None}, TypeError),
        ({"max_connections": 0}, ValueError),
        ({"max_connections": 2.5}, TypeError),
    ],
)
async def test_a_client_has_limits(change: dict[str, Any], kind: type[Exception]) -> None:
    said = next(iter(change))
    for client in (
        lambda: connect("redis://localhost/0", **change),
        lambda: connect_sentinel("redis://localhost/0", [("localhost", 26379)], "okome", **change),
        lambda: connect_cluster("redis://localhost", **change),
    ):
        with pytest.raises(kind, match=said):
            client()


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
