"""What answers that cost nothing say of the budgets."""

import pytest

from okome import lately
from okome.decision import Decision, Outcome
from okome.headers import Quota, rate_limit_headers
from okome.lately import Lately, encoded

QUOTAS = (
    Quota("per-minute", "requests", 60, 59, 60.0, 0.7),
    Quota("per-day", "tokens", 1000, 10, 86400.0, 5.2),
)


def resets(headers: list[tuple[bytes, bytes]] | None) -> dict[str, str]:
    shown = {name.decode(): value.decode() for name, value in headers or ()}
    return {
        unit: f"{shown[f'x-ratelimit-remaining-{unit}']} {shown[f'x-ratelimit-reset-{unit}']}"
        for unit in ("requests", "tokens")
    }


def test_they_are_as_of_now_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("okome.lately.time.monotonic", lambda: now)
    said = Lately()
    assert said.headers("ann") is None
    said.heard("ann", Decision(Outcome.ALLOWED, quotas=QUOTAS))
    assert said.headers("ann") == encoded(rate_limit_headers(QUOTAS))
    for passed, requests, tokens in [
        (0.1, "59 1s", "10 6s"),
        (0.3, "59 1s", "10 5s"),
        (0.8, "60 0s", "10 5s"),
        (1.1, "60 0s", "10 5s"),
        (1.3, "60 0s", "10 4s"),
        (9.0, "60 0s", "1000 0s"),
    ]:
        now = 100.0 + passed
        assert resets(said.headers("ann")) == {"requests": requests, "tokens": tokens}, passed


def test_only_the_last_users_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lately, "_USERS", 2)
    said = Lately()
    for user in ("ann", "ben", "ann", "cid"):
        said.heard(user, Decision(Outcome.ALLOWED, quotas=QUOTAS))
    assert [said.headers(user) is None for user in ("ann", "ben", "cid")] == [False, True, False]
