"""How long things last in the cache, and how much is allowed."""

import math
from dataclasses import dataclass, fields

from okome.arguments import require_seconds
from okome.envelope import MAX_BYTES


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long things last, in seconds, and how much is allowed."""

    fresh: float = 300.0
    """A value is served as it is."""
    stale: float = 60.0
    """After that: served, while a new one is computed (stale-while-revalidate, RFC 5861)."""
    stale_if_error: float = 3600.0
    """Counted from the end of `fresh`: served when computing a new one failed."""
    negative: float = 2.0
    """A failure is remembered: no new attempt until then."""
    negative_errors: tuple[type[Exception], ...] = ()
    """The errors worth remembering where there is no old value to serve. Cancellation never is."""
    lock_ttl: float = 5.0
    """A dead owner is replaced after this. Says nothing about how long a computation may take: the heartbeat,
    every third of it, keeps the lock."""
    max_compute: float = 600.0
    """A computation is cancelled (TimeoutError) after this, and nobody waits longer for another process's."""
    poll: float = 1.0
    """Waiters look for themselves this often, should a wake-up get lost."""
    beta: float = 1.0
    """XFetch: above 1 recomputes earlier, 0 never before the end of `fresh` (Vattani et al., 2015)."""
    max_bytes: int = MAX_BYTES
    """Encoded; what is larger is passed through and counted."""
    degraded_computes: int = 8
    """Computations at the same time while Redis is gone, those that are not to be cached included; for those
    inside of others another as many, and so on."""
    degraded_wait: float = 5.0
    """How long one waits for its turn then: OverloadedError."""
    redis_timeout: float = 1.0
    """For each call to Redis."""
    write_timeout: float = 1.0
    """For each write-back; its value has been delivered before."""
    breaker: float = 1.0
    """After a failed call, how long Redis is left alone."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name in ("max_bytes", "degraded_computes")
            if field.name != "negative_errors" and (
                isinstance(value, bool) or not isinstance(value, int if whole else int | float)
            ):
                raise TypeError(f"{field.name} is a {'whole ' if whole else ''}number, not {value!r}")
        object.__setattr__(self, "negative_errors", _errors(self.negative_errors))
        for name in ("fresh", "lock_ttl", "max_compute", "poll", "redis_timeout", "write_timeout"):
            require_seconds(name, getattr(self, name))
        for name in ("stale", "stale_if_error", "negative", "beta", "degraded_wait", "breaker"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is not negative: {getattr(self, name)}")
        if not 0 < self.max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes is 1 to {MAX_BYTES}, not {self.max_bytes}")
        if self.degraded_computes < 1:
            raise ValueError("degraded_computes is at least 1")

    def lifetime(self, verdict: object) -> float:
        """Seconds for which a value is fresh, 0 if it is not to be stored, by what `keep` or `complete` said of it:
        True, False, or a number of seconds. Raises TypeError or ValueError for anything else.
        """
        if isinstance(verdict, bool):
            return self.fresh if verdict else 0.0
        if not isinstance(verdict, int | float):
            raise TypeError(f"whether a value is kept is said by True, False or seconds, not by {verdict!r}")
        if not 0 <= verdict < math.inf:
            raise ValueError(f"a value is fresh for a number of seconds, not for {verdict}")
        return float(verdict)


def _errors(given: object) -> tuple[type[Exception], ...]:
    listed = tuple(given) if isinstance(given, tuple | list | set | frozenset) else (None,)
    if not all(isinstance(one, type) and issubclass(one, Exception) for one in listed):
        raise TypeError(f"negative_errors is a tuple of kinds of Exception, not {given!r}")
    return listed
