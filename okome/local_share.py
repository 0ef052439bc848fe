"""What one process may give out of the rates while Redis is gone. Pure, but for what it remembers."""

import math
from collections.abc import Callable, Sequence

import msgspec

from okome.rules import SLOTS, Cap, Charge, Rate

_STATES = 10_000  # of rates kept; beyond that the oldest are forgotten
_GRACE = 1e-6  # s: a float can't hold every sum of intervals


class Refused(msgspec.Struct, frozen=True):
    """By which charge. `retry_after`: seconds; None: waiting does not help."""

    charge: Charge
    retry_after: float | None


class _State(msgspec.Struct, frozen=True):
    """`arrival`: theoretical (GCRA). `admitted`: when and how much, once for each slot of the window. Monotonic, s."""

    arrival: float
    admitted: tuple[tuple[float, int], ...] = ()


class LocalShare:
    """Windows and bursts as in the script, at `share` of each rate, in whole units, but one at least; hard caps have no
    share. All or nothing.
    """

    def __init__(self, share: float, monotonic: Callable[[], float]) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise TypeError(f"local_share is a number, not {share!r}")
        if not 0 < share <= 1:
            raise ValueError(f"local_share is more than 0 and at most 1, not {share}")
        self._share = share
        self._monotonic = monotonic
        self._states: dict[str, _State] = {}  # by key

    def take(self, charges: Sequence[Charge]) -> Refused | None:
        now = self._monotonic()
        after: dict[str, _State] = {}
        for charge in charges:
            if isinstance(charge.rule, Cap) or (not charge.rule.limit and charge.amount):
                return Refused(charge, None)
            found = self._after(charge.rule, self._states.get(charge.key, _State(now)), charge.amount, now)
            if not isinstance(found, _State):
                return Refused(charge, found)
            after[charge.key] = found
        for key, state in after.items():
            self._states.pop(key, None)
            self._states[key] = state
        while len(self._states) > _STATES:
            del self._states[next(iter(self._states))]
        return None

    def _after(self, rule: Rate, state: _State, amount: int, now: float) -> _State | float | None:
        """Once that much is admitted; or for how long it is not: None for ever."""
        share = rule.limit * self._share
        limit, burst = max(1, math.floor(share)), max(1, math.floor(rule.at_once * self._share))
        per = (
            rule.per if share >= 1 or not share else rule.per / share
        )  # a share of less than one is one more seldom
        interval = per / limit
        arrival = max(state.arrival, now) + amount * interval
        admitted = [(at, units) for at, units in state.admitted if at > now - per]
        wait = arrival - now - burst * interval
        excess = sum(units for _, units in admitted) + amount - limit
        for at, units in admitted:
            if excess > 0:
                wait = max(wait, at + per - now)
                excess -= units
        if amount and (amount > burst or wait > _GRACE):
            return None if amount > burst else wait
        if amount:
            slot = per / SLOTS
            if admitted and admitted[-1][0] // slot == now // slot:
                amount += admitted.pop()[1]
            admitted.append((now, amount))
        return _State(arrival, tuple(admitted))
