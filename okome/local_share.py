"""What one process may give out of the rates while Redis is gone. Pure, but for what it remembers."""

from collections.abc import Callable, Sequence

import msgspec

from okome.rules import Cap, Charge

_STATES = 10_000  # of rates kept; beyond that the oldest are forgotten
_GRACE = 1e-6  # s: a float can't hold every sum of intervals


class Refused(msgspec.Struct, frozen=True):
    """By which charge. `retry_after`: seconds; None: waiting does not help."""

    charge: Charge
    retry_after: float | None


class LocalShare:
    """GCRA as in the script, at `share` of each rate; hard caps have no share. All or nothing."""

    def __init__(self, share: float, monotonic: Callable[[], float]) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise TypeError(f"local_share is a number, not {share!r}")
        if not 0 < share <= 1:
            raise ValueError(f"local_share is more than 0 and at most 1, not {share}")
        self._share = share
        self._monotonic = monotonic
        self._arrivals: dict[str, float] = {}  # theoretical, monotonic, by key

    def take(self, charges: Sequence[Charge]) -> Refused | None:
        now = self._monotonic()
        after: dict[str, float] = {}
        for charge in charges:
            rule = charge.rule
            if isinstance(rule, Cap) or (not rule.limit and charge.amount):
                return Refused(charge, None)
            interval = rule.interval / self._share
            burst = max(interval, rule.tolerance)  # the share of the burst, but never less than one unit
            after[charge.key] = max(self._arrivals.get(charge.key, now), now) + charge.amount * interval
            over = after[charge.key] - now - burst - _GRACE
            if over > 0:
                never = charge.amount * interval > burst + _GRACE
                return Refused(charge, None if never else over)
        for key, arrival in after.items():
            self._arrivals.pop(key, None)
            self._arrivals[key] = arrival
        while len(self._arrivals) > _STATES:
            del self._arrivals[next(iter(self._arrivals))]
        return None
