"""What an entry is good for, by its age: no Redis, no clock but `now`."""

import math

import pytest
from msgspec.structs import replace

from okome import CachePolicy, Status
from okome.entry import (
    Entry,
    draw,
    due,
    heard,
    instead,
    longest_draw,
    may_be_used,
    of_failure,
    of_value,
    quieted,
    usable,
)
from okome.envelope import Envelope, Kind

POLICY = CachePolicy(
    fresh=10, stale=20, stale_if_error=50, negative=2, negative_errors=(ValueError,), max_bytes=9
)
BORN = 1_000_000.0


def stored(body: bytes = b"body") -> Entry:
    return Entry(of_value(POLICY, "bytes", b"t" * 16, BORN, body, 2.0, {"tag": b"g"}), "value")


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (-5.0, Status.HIT),  # another process's clock may be a little ahead
        (9.5, Status.HIT),
        (10.0, Status.STALE),
        (29.5, Status.STALE),
        (30.0, None),
    ],
)
def test_usable(age: float, status: Status | None) -> None:
    cached = usable(stored(), BORN + age)
    assert (cached and cached.status) == status
    if cached is not None:
        assert (cached.value, cached.age, cached.ttl) == ("value", max(0.0, age), 10 - max(0.0, age))


@pytest.mark.parametrize(
    ("age", "may"), [(-3600.0, False), (-5.0, True), (0.0, True), (59.5, True), (60.0, False)]
)
def test_what_was_written_in_the_future_has_no_age(age: float, may: bool) -> None:
    """An hour ahead: the clock was set back since."""
    assert may_be_used(stored().envelope, BORN + age) is may


@pytest.mark.parametrize(("ahead", "quiet"), [(0.0, True), (3600.0, False)])
def test_a_quiet_of_the_future_is_none(ahead: float, quiet: bool) -> None:
    failed = quieted(POLICY, b"n" * 16, BORN + 30 + ahead, stored())
    assert (heard(failed, 2, BORN + 30).quiet_until > BORN + 30) is quiet


@pytest.mark.parametrize(("age", "stands_in"), [(29.0, True), (59.5, True), (60.0, False)])
def test_instead_of_an_error(age: float, stands_in: bool) -> None:
    found = instead(stored(), BORN + age)
    assert (found is not None) is stands_in
    assert found is None or (found.status, found.age) == (Status.STALE, age)
    assert instead(None, BORN) is None


def test_after_a_failure_an_old_value_is_quiet_for_a_while() -> None:
    quiet = Entry(quieted(POLICY, b"n" * 16, BORN + 35, stored()), "value")
    assert quiet.envelope.token == b"n" * 16
    cached = usable(quiet, BORN + 36.9)
    assert cached is not None
    assert not due(quiet, cached.ttl, BORN + 36.9, 0.0)
    assert usable(quiet, BORN + 37) is None


def test_due_is_what_is_stale_and_by_lot_what_is_nearly_so() -> None:
    entry = stored()  # computed in 2 s
    assert due(entry, 0.0, BORN + 10, 0.0)
    assert due(entry, 3.0, BORN + 7, 1.5)
    assert not due(entry, 3.0, BORN + 7, 1.4)


def test_no_draw_is_longer_than_the_longest() -> None:
    assert draw(1.5, 0.0) == 0.0
    assert draw(1.5, math.nextafter(1.0, 0.0)) <= longest_draw(1.5)
    assert longest_draw(0.0) == 0.0


def test_what_is_too_large_is_known_to_be_for_a_while() -> None:
    envelope = stored(b"x" * 10).envelope
    assert (envelope.kind, envelope.body, envelope.fresh) == (Kind.PASS, b"", 10)
    assert stored(b"x" * 9).envelope.kind is Kind.VALUE
    assert usable(Entry(envelope, None), BORN) is None
    assert instead(Entry(envelope, None), BORN) is None


def failed(
    error: Exception, old: Entry | None, policy: CachePolicy = POLICY, age: float = 0.0
) -> Envelope | None:
    return of_failure(policy, "bytes", b"n" * 16, BORN + age, error, old)


def test_a_failure_is_remembered_if_listed_and_without_a_value_whose_place_it_would_take() -> None:
    remembered = failed(ValueError("of user ann"), None)
    assert remembered is not None
    assert (remembered.kind, remembered.body, remembered.life) == (Kind.ERROR, b"ValueError", 2)
    assert Entry(remembered, None).error_type == "ValueError"
    assert failed(KeyError("x"), None) is None
    assert failed(ValueError("x"), None, CachePolicy(negative=0, negative_errors=(ValueError,))) is None
    assert failed(ValueError("x"), stored(), age=59) is None
    assert failed(ValueError("x"), stored(), age=60) is not None
    assert failed(ValueError("x"), Entry(replace(remembered, fresh=1e9), None)) is not None
