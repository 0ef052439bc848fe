"""What lies under a key, judged by the time: to be served, to be computed anew, or of use only should that fail.

Pure: `now` is Redis's time, in seconds since the epoch.
"""

import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from okome.envelope import Envelope, Kind
from okome.headers import Status, cache_headers
from okome.policy import CachePolicy

T = TypeVar("T")

_VALUE, _HIT = Kind.VALUE, Status.HIT  # to look up a member costs an enum as much as decoding does a value
_SKEW = 30.0  # s that another process's estimate of Redis's time may be ahead of ours, generously
_PASS_FOR = 60.0  # s for which a key is known to be too large


class Cached(msgspec.Struct, Generic[T], frozen=True):
    """A value and where it came from. `age`: seconds since it was computed; `ttl`: until it is stale, may be
    < 0.

    Callers that were coalesced share the very same object: don't change it.
    """

    value: T
    status: Status
    age: float = 0.0
    ttl: float = 0.0
    stored: bool = False

    def headers(self) -> dict[str, str]:
        """X-OKOME-Cache, Cache-Status and Age."""
        return cache_headers(self.status, age=self.age, ttl=self.ttl, stored=self.stored)


class Entry(msgspec.Struct, frozen=True):
    """An envelope that may be used, with its decoded value (None for an error or a pass)."""

    envelope: Envelope
    value: Any

    @property
    def error_type(self) -> str | None:
        """Of the failure that it remembers, if it does."""
        return self.envelope.body.decode(errors="replace") if self.envelope.kind is Kind.ERROR else None


# Reading


def usable(entry: Entry, now: float) -> Cached[Any] | None:
    """Fresh, stale but usable now, or (None) only of use should computing fail, or no value at all."""
    envelope = entry.envelope
    if envelope.kind is not _VALUE:
        return None
    age = now - envelope.created
    if age < 0:
        age = 0.0
    ttl = envelope.fresh - age
    if ttl > 0:
        return Cached(entry.value, _HIT, age, ttl)
    if -ttl < envelope.stale or now < envelope.quiet_until:
        return Cached(entry.value, Status.STALE, age, ttl)
    return None


def shared(cached: Cached[Any], *, leads: bool) -> Cached[Any]:
    """What one of those who waited together is told: a miss is that of who leads."""
    if leads or cached.status is not Status.MISS:
        return cached
    return replace(cached, status=Status.COALESCED)


def due(entry: Entry, ttl: float, now: float, draw: float) -> bool:
    """Whether to compute anew now: stale, or nearly so and drawn by lot (XFetch). `draw`: beta × -log of a
    number from 0 to 1.
    """
    if ttl <= 0:
        return now >= entry.envelope.quiet_until
    return entry.envelope.compute * draw >= ttl


def instead(entry: Entry | None, now: float) -> Cached[Any] | None:
    """The old value, if it may stand in for an error (stale-if-error, RFC 5861)."""
    if entry is None or entry.envelope.kind is not _VALUE:
        return None
    age = max(0.0, now - entry.envelope.created)
    ttl = entry.envelope.fresh - age
    return Cached(entry.value, Status.STALE, age, ttl) if -ttl < entry.envelope.stale_if_error else None


def of_the_future(envelope: Envelope, now: float) -> bool:
    """The clock was set back, and nobody knows how old it is."""
    return envelope.created > now + _SKEW


def heard(envelope: Envelope, quiet: float, now: float) -> Envelope:
    """Without a quiet that ends later than it can, in `quiet` seconds: the clock was set back since a failure. To
    shorten it would shorten it anew at each reading, and it would never end.
    """
    impossible = envelope.quiet_until > now + quiet + _SKEW
    return replace(envelope, quiet_until=0.0) if impossible else envelope


def may_be_used(envelope: Envelope, now: float) -> bool:
    """Not once its life is over, nor if it is of the future."""
    return not of_the_future(envelope, now) and now < envelope.created + envelope.life


# Writing


def of_value(
    policy: CachePolicy,
    codec: str,
    token: bytes,
    now: float,
    body: bytes,
    compute: float,
    tags: Mapping[str, bytes],
    fresh: float | None = None,
) -> Envelope:
    """`body`, fresh for so many seconds (None: as the policy says), or that it is too large. `compute`: seconds it
    took.
    """
    if len(body) > policy.max_bytes:
        return of_too_large(policy, codec, token, now)
    return Envelope(
        Kind.VALUE,
        codec,
        token,
        now,
        policy.fresh if fresh is None else fresh,
        body,
        policy.stale,
        policy.stale_if_error,
        compute,
        tags=dict(tags),
    )


def of_too_large(policy: CachePolicy, codec: str, token: bytes, now: float) -> Envelope:
    return Envelope(Kind.PASS, codec, token, now, min(policy.fresh, _PASS_FOR), b"")


def of_failure(
    policy: CachePolicy, codec: str, token: bytes, now: float, error: Exception, old: Entry | None
) -> Envelope | None:
    """A failure to be remembered, if it is of a kind that is, and does not take the place of a value."""
    good = old is not None and old.envelope.kind is _VALUE and may_be_used(old.envelope, now)
    if good or not policy.negative or not isinstance(error, policy.negative_errors):
        return None
    body = type(error).__name__.encode()  # never its text: that may quote a request
    return Envelope(Kind.ERROR, codec, token, now, policy.negative, body)


def quieted(policy: CachePolicy, token: bytes, now: float, old: Entry) -> Envelope:
    """The old value, served in place of a failure: no new attempt for a while."""
    return replace(old.envelope, token=token, quiet_until=now + policy.negative)


def longest_draw(beta: float) -> float:
    """The most that `due` may be given: -log of the smallest 1 - uniform() there is, 2^-53, rounded up."""
    return beta * 37.0


def draw(beta: float, uniform: float) -> float:
    """`uniform`: 0 to 1, less than 1."""
    return beta * -math.log(1.0 - uniform)
