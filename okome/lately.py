"""What the budgets said last to each user, for the headers of answers that cost nothing."""

import math
import time
from collections.abc import Iterable, Mapping

import msgspec

from okome.decision import Decision
from okome.headers import Quota, rate_limit_headers

RawHeaders = list[tuple[bytes, bytes]]

_USERS = 4096  # of whom it is kept


def encoded(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


class Lately:
    """Of the last users."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}

    def heard(self, user: str, decision: Decision) -> None:
        self._said.pop(user, None)
        self._said[user] = _Said(decision.quotas)
        if len(self._said) > _USERS:
            del self._said[next(iter(self._said))]

    def headers(self, user: str) -> RawHeaders | None:
        said = self._said.get(user)
        return None if said is None else said.headers()


class _Said:
    """Quotas, as they are by now, if nothing was spent meanwhile. Their headers change with each full second."""

    def __init__(self, quotas: Iterable[Quota]) -> None:
        self._quotas = tuple(quotas)
        self._at = time.monotonic()
        self._headers: RawHeaders = []
        self._until = float("-inf")

    def headers(self) -> RawHeaders:
        now = time.monotonic()
        if now < self._until:
            return self._headers
        passed = now - self._at
        quotas = [
            msgspec.structs.replace(quota, reset=quota.reset - passed)
            if quota.reset > passed
            else msgspec.structs.replace(quota, reset=0.0, remaining=quota.limit)
            for quota in self._quotas
        ]
        self._headers = encoded(rate_limit_headers(quotas))
        self._until = now + min((1 + quota.reset - math.ceil(quota.reset) for quota in quotas), default=1.0)
        return self._headers
