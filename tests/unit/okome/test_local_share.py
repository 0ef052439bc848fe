"""What a process gives out of the rates by itself: no Redis, no clock but the test's."""

import pytest

from okome import Cap, Rate, Rule
from okome.local_share import LocalShare
from okome.rules import Charge

TEN_AN_HOUR = Rate(name="rph", by=("user",), unit="requests", limit=10, per=3600)


class Hours:
    passed = 0.0

    def __call__(self) -> float:
        return 1000.0 + 3600 * self.passed


def charge(amount: int, rule: Rule = TEN_AN_HOUR, whom: str = "ann") -> Charge:
    return Charge(rule, f"{rule.name}:{whom}", b"", amount)


def test_a_share_of_the_rate_comes_back_with_the_time() -> None:
    hours = Hours()
    share = LocalShare(0.5, hours)
    for _ in range(2):
        assert [share.take([charge(1)]) for _ in range(5)] == [None] * 5
        refused = share.take([charge(1)])
        assert refused is not None
        assert refused.retry_after == pytest.approx(3600)  # s: all of it was admitted just now
        assert share.take([charge(1, whom="bob")]) is None
        hours.passed += 1


def test_a_share_of_the_burst_comes_back_smoothly() -> None:
    hours, smooth = Hours(), Rate(name="rph", by=("user",), unit="requests", limit=10, per=3600, burst=4)
    share = LocalShare(0.5, hours)
    assert [share.take([charge(1, smooth)]) for _ in range(2)] == [None] * 2
    refused = share.take([charge(1, smooth)])
    assert refused is not None
    assert refused.retry_after == pytest.approx(720)  # s, for one of five an hour


def test_a_share_of_less_than_one_is_one_in_a_longer_window() -> None:
    hours = Hours()
    share = LocalShare(0.05, hours)
    assert share.take([charge(1)]) is None
    refused = share.take([charge(1)])
    assert refused is not None
    assert refused.retry_after == pytest.approx(7200)
    hours.passed += 2
    assert share.take([charge(1)]) is None


def test_more_than_the_burst_never_fits_and_one_unit_always_does() -> None:
    refused = LocalShare(0.5, Hours()).take([charge(6)])
    assert refused is not None
    assert refused.retry_after is None
    assert LocalShare(0.01, Hours()).take([charge(1)]) is None


def test_all_or_nothing_and_no_share_of_a_hard_cap() -> None:
    share, cap = LocalShare(1.0, Hours()), Cap(name="cap", by=("user",), unit="requests", limit=100)
    for _ in range(20):
        refused = share.take([charge(1), charge(1, cap)])
        assert refused is not None
        assert (refused.charge.rule, refused.retry_after) == (cap, None)
    assert share.take([charge(10)]) is None


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okome.local_share._STATES", 2)
    share = LocalShare(0.1, Hours())
    for whom in ("ann", "bob", "cleo"):
        assert share.take([charge(1, whom=whom)]) is None
    assert share.take([charge(1, whom="cleo")]) is not None
    assert share.take([charge(1, whom="ann")]) is None, "long forgotten"


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_a_bad_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="local_share"):
        LocalShare(share, Hours())
