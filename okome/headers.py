"""Every HTTP header the library reads or writes, in one place. No header ever carries a key or a user."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec


class Status(StrEnum):
    HIT = "HIT"  # fresh, from Redis
    STALE = "STALE"  # too old, while a new one is computed or because that failed
    MISS = "MISS"  # computed for this caller
    COALESCED = "COALESCED"  # computed for another caller at the same time
    BYPASS = "BYPASS"  # not to be cached: the caller said so, or the value is too large
    DEGRADED = "DEGRADED"  # computed without Redis, which could not be reached


# RFC 9211: why the request went on to the origin.
_FORWARDED = {
    Status.MISS: "fwd=uri-miss",
    Status.COALESCED: "fwd=uri-miss",
    Status.BYPASS: "fwd=bypass",
    Status.DEGRADED: "fwd=uri-miss; detail=degraded",
}


@dataclass(frozen=True, slots=True)
class Directives:
    """What a request's Cache-Control asks for (RFC 9111, section 5.2.1)."""

    no_cache: bool = False  # compute anew, and store that
    no_store: bool = False  # neither read nor write nor share
    only_if_cached: bool = False  # never compute: what is not there is 504

    def __post_init__(self) -> None:
        for name in ("no_cache", "no_store", "only_if_cached"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}")

    @classmethod
    def parse(cls, cache_control: str | None) -> Self:
        """From the header's value. Unknown directives are ignored, as the RFC wants; max-age=0 means no-
        cache.
        """
        if cache_control is not None and not isinstance(cache_control, str):
            raise TypeError(f"cache_control is the header's text, or None, not {cache_control!r}")
        names = {name.strip().lower().replace(" ", "") for name in (cache_control or "").split(",")}
        return cls(
            no_cache=bool(names & {"no-cache", "max-age=0"}),
            no_store="no-store" in names,
            only_if_cached="only-if-cached" in names,
        )


def cache_headers(status: Status, *, age: float, ttl: float, stored: bool) -> dict[str, str]:
    """X-OKOME-Cache, Cache-Status (RFC 9211) and, for what came from the cache, Age. Times in seconds.

    `stored` says that the value goes into the cache; it is on its way there while the answer is delivered.
    """
    if status in (Status.HIT, Status.STALE):
        detail = f"okome; hit; ttl={math.floor(ttl)}"
    else:
        detail = f"okome; {_FORWARDED[status]}"
        if stored:
            detail += "; stored"
        if status is Status.COALESCED:
            detail += "; collapsed"
    headers = {"X-OKOME-Cache": status.value, "Cache-Status": detail}
    if status in (Status.HIT, Status.STALE):
        headers["Age"] = str(max(0, math.floor(age)))
    return headers


class Quota(msgspec.Struct, frozen=True):
    """What is left of one limit. `limit`, `remaining` and `debt` (spent beyond it) in units; `window`, `reset` in
    seconds.
    """

    name: str
    unit: str
    limit: int
    remaining: int
    window: float
    reset: float
    debt: int = 0


def rate_limit_headers(
    quotas: Iterable[Quota], *, retry_after: float | None = None, draft: bool = True
) -> dict[str, str]:
    """The OpenAI-style x-ratelimit-* headers, Retry-After where there is one to give, and (`draft`) RateLimit
    and RateLimit-Policy as in draft-ietf-httpapi-ratelimit-headers-10, which is not an RFC yet: one switch.

    x-ratelimit-* has room for one limit per unit: the one with the least left.
    """
    headers: dict[str, str] = {}
    shown = sorted(quotas, key=lambda quota: quota.remaining / max(1, quota.limit))
    if draft and shown:
        headers["RateLimit-Policy"] = ", ".join(
            f'"{quota.name}";q={quota.limit};w={math.ceil(quota.window)};qu="{quota.unit}"' for quota in shown
        )
        headers["RateLimit"] = ", ".join(
            f'"{quota.name}";r={quota.remaining};t={math.ceil(quota.reset)}' for quota in shown
        )
    for quota in shown:
        if f"x-ratelimit-limit-{quota.unit}" not in headers:
            headers[f"x-ratelimit-limit-{quota.unit}"] = str(quota.limit)
            headers[f"x-ratelimit-remaining-{quota.unit}"] = str(quota.remaining)
            headers[f"x-ratelimit-reset-{quota.unit}"] = _duration(quota.reset)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return headers


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 0s, 12s, 6m0s, 1h0m5s."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
