"""What is limited: rates and caps, their periods, and which of them a request is charged to."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property, lru_cache

import msgspec

from okome.arguments import require_name
from okome.headers import Quota
from okome.keys import Keyspace, digest

MAX_AMOUNT = 2**53 - 1  # Lua counts in doubles
SLOTS = 16
"""Of a rate's window: what was admitted may count for a sixteenth of it too long, and a state has no more entries."""
_SUBJECTS = 4096  # whose keys are kept


class Period(StrEnum):
    """Of the calendar, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def around(self, now: float) -> tuple[int, int]:
        """Begin and end of the period that holds `now`; all in seconds since the epoch."""
        return self._of_hour(int(now // 3600))

    @lru_cache(8)  # three members, which live for ever anyway
    def _of_hour(self, hour: int) -> tuple[int, int]:
        at = datetime.fromtimestamp(hour * 3600, UTC)
        if self is Period.HOUR:
            begin, end = at, at + timedelta(hours=1)
        elif self is Period.DAY:
            begin = at.replace(hour=0)
            end = begin + timedelta(days=1)
        else:
            begin = at.replace(hour=0, day=1)
            end = (begin + timedelta(days=32)).replace(day=1)
        return int(begin.timestamp()), int(end.timestamp())


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """`by`: the dimensions that share it, such as ("user", "model"). `unit`: what it counts, such as
    "tokens". `limit`: in units; 0: nobody. `where`: dimensions and values it is for, such as {"tier": "free"}; empty:
    for all.

    Raises TypeError for what is of another kind, ValueError for what can't be.
    """

    name: str
    by: tuple[str, ...]
    unit: str
    limit: int
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, word in (("name", self.name), ("unit", self.unit)):
            require_name(what, word)
            if not word.isascii() or not word.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{word!r} goes into headers: ASCII letters, digits, '-' and '_' only")
        self._require_whole("limit", self.limit)
        if not 0 <= self.limit <= MAX_AMOUNT:
            raise ValueError(f"{self.name}: the limit is 0 to 2^53 - 1, not {self.limit}")
        if isinstance(self.by, str) or not isinstance(self.by, Iterable):
            raise TypeError(f"{self.name}: by is several dimensions, such as ('user',), not {self.by!r}")
        object.__setattr__(self, "by", tuple(self.by))
        if not isinstance(self.where, Mapping):
            raise TypeError(f"{self.name}: where is {{dimension: value}}, not {self.where!r}")
        for name in (*self.by, *self.where, *self.where.values()):
            require_name(f"{self.name}: a dimension, or its value,", name)

    def _require_whole(self, what: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{self.name}: {what} is a whole number, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Rate(_Rule):
    """At most `limit` units in any window of `per` seconds, however they are spread: what was admitted comes back when
    it has left the window, and at most `per` / SLOTS later. For each user there are no more than twice SLOTS numbers.

    `burst`: so many of them at once (all, by default), and then smoothly, one every `per` / `limit` seconds (GCRA).
    What was spent beyond the limit is debt, and is worked off at that pace.
    """

    per: float = 60.0
    burst: int | None = None

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if not isinstance(self.per, int | float) or isinstance(self.per, bool):
            raise TypeError(f"{self.name}: per is a number of seconds, not {self.per!r}")
        if self.burst is not None:
            self._require_whole("burst", self.burst)
        if not 0 < self.per < math.inf or (self.burst is not None and self.burst < 1):
            raise ValueError(f"{self.name}: per and burst are positive")
        if self.burst is not None and self.limit and self.burst > self.limit:
            raise ValueError(f"{self.name}: burst is at most the limit, {self.limit}, and not {self.burst}")
        if self.interval < 1e-6:
            raise ValueError(f"{self.name}: at most a million units a second can be told apart")

    @cached_property
    def interval(self) -> float:
        """Seconds for one unit to come back, smoothly."""
        return self.per / (self.limit or 1)

    @cached_property
    def at_once(self) -> int:
        """Units."""
        return self.limit if self.burst is None or not self.limit else self.burst

    @cached_property
    def life(self) -> str:
        """Milliseconds for which any state of it without debt means something."""
        return str(math.ceil(self.per * 1000) + 1)

    def period_around(self, now: float) -> tuple[int, int]:
        """It has none."""
        return 0, 0

    def state_of(self, whom: str, begin: int) -> tuple[str, str]:
        """Kind and name of the key that holds it for `whom` (a digest)."""
        return "window", f"{self.name}:{whom}"

    def reserving(self, charge: "Charge") -> tuple[str | int | float, ...]:
        """As RESERVE wants it."""
        return "R", charge.amount, self.limit, self.at_once, self.per, self.life

    def settling(self, charge: "Charge", actual: int) -> list[str | int | float]:
        """As SETTLE wants it."""
        return ["R", charge.amount, actual, self.limit, self.per]

    def quota(self, charge: "Charge", left: int, reset: float) -> Quota:
        return _quota(self, left, self.per, reset)


@dataclass(frozen=True, kw_only=True)
class Cap(_Rule):
    """`limit` units per calendar period, hard: reserved and spent together never exceed it, but for debt."""

    period: Period = Period.DAY
    """Or its name, such as "day"."""

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        try:
            object.__setattr__(self, "period", Period(self.period))
        except ValueError:
            raise ValueError(
                f"{self.name}: the period is one of {', '.join(Period)}, not {self.period!r}"
            ) from None

    def period_around(self, now: float) -> tuple[int, int]:
        return self.period.around(now)

    def state_of(self, whom: str, begin: int) -> tuple[str, str]:
        """Kind and name of the key that holds it for `whom` (a digest), in the period that begins then."""
        return "cap", f"{self.name}:{whom}:{self.period}-{begin}"

    def reserving(self, charge: "Charge") -> tuple[str | int | float, ...]:
        """As RESERVE wants it."""
        return "C", charge.amount, self.limit, charge.begin, charge.end, 0

    def settling(self, charge: "Charge", actual: int) -> list[str | int | float]:
        """As SETTLE wants it."""
        return ["C", charge.amount, actual, charge.end]

    def quota(self, charge: "Charge", left: int, reset: float) -> Quota:
        return _quota(self, left, charge.end - charge.begin, reset)


Rule = Rate | Cap


def _quota(rule: _Rule, left: int, window: float, reset: float) -> Quota:
    if left < 0:
        return Quota(rule.name, rule.unit, rule.limit, 0, window, reset, -left)
    return Quota(rule.name, rule.unit, rule.limit, left, window, reset)


class Charge(msgspec.Struct, frozen=True):
    """What one rule takes part in: the key of its state (`wire`: as it is sent), how much, and a cap's period."""

    rule: Rule
    key: str
    wire: bytes
    amount: int
    begin: int = 0
    end: int = 0


_PERIOD = re.compile(rf".*:({'|'.join(Period)})-(\d+)", re.DOTALL)  # as in the name of a cap's state


def period_end(state: str) -> int | None:
    """Of the cap whose state has this name, in seconds since the epoch; None if there is no period in it."""
    found = _PERIOD.fullmatch(state)
    return found and Period(found[1]).around(int(found[2]))[1]


class Rules:
    """Those of one Budgets; their states' keys by `key`."""

    def __init__(self, rules: Sequence[Rule], key: Keyspace) -> None:
        if not isinstance(rules, Sequence) or not all(isinstance(rule, Rule) for rule in rules):
            raise TypeError(f"rules are several Rates and Caps, in a list, not {rules!r}")
        if len({rule.name for rule in rules}) != len(rules):
            raise ValueError("two rules have the same name")
        self._rules = tuple(rules)
        self._key = key
        self._units = {rule.unit for rule in rules}
        self._states = lru_cache(_SUBJECTS)(self._find_states)
        self.capped = any(isinstance(rule, Cap) for rule in rules)
        """Whether there is a hard cap among them."""

    def __len__(self) -> int:
        return len(self._rules)

    def charges(
        self, subject: Mapping[str, str], amounts: Mapping[str, int], now: float
    ) -> tuple[Charge, ...]:
        """Of the rules that count one of these units. ValueError for a dimension that a rule asks for and the subject
        does not say, a unit that no rule counts, no unit at all, and a bad amount; TypeError for what is no mapping and
        for a value that is no text.
        """
        hour = int(now // 3600)
        try:
            for amount in amounts.values():
                require_amount(amount)
            states = self._states(tuple(subject.items()), tuple(amounts), hour)
        except (TypeError, AttributeError):  # what can't be looked up, such as a list: say whose it is
            for what, mapping, holds in (
                ("subject", subject, "{dimension: name}"),
                ("amounts", amounts, "{unit: amount}"),
            ):
                if not isinstance(mapping, Mapping):
                    raise TypeError(f"{what} is {holds}, not {mapping!r}") from None
            for name, value in subject.items():
                require_name(f"the subject's {name}", value)
            raise
        return tuple(
            [
                Charge(rule, key, wire, amounts[rule.unit], begin, end)
                for rule, key, wire, begin, end in states
            ]
        )

    def _find_states(
        self, subject: tuple[tuple[str, str], ...], units: tuple[str, ...], hour: int
    ) -> list[tuple[Rule, str, bytes, int, int]]:
        """Their keys, and the periods of the caps among them."""
        values = dict(subject)
        for name, value in values.items():
            require_name(f"the subject's {name}", value)
        if not units:
            raise ValueError(
                "amounts is empty: what costs nothing says of which unit, such as {'requests': 0}"
            )
        for unit in units:
            if unit not in self._units:
                raise ValueError(
                    f"{unit!r} is counted by no rule: they count {', '.join(sorted(self._units))}"
                )
        states: list[tuple[Rule, str, bytes, int, int]] = []
        for rule in self._rules:
            if rule.unit not in units:
                continue
            for name in (*rule.by, *rule.where):
                if name not in values:
                    raise ValueError(f"{rule.name} asks for {name!r}, which the subject does not say")
            if rule.where and any(values.get(name) != value for name, value in rule.where.items()):
                continue
            whom = digest("\0".join([f"{name}={values[name]}" for name in rule.by]))
            begin, end = rule.period_around(hour * 3600)
            key = self._key(*rule.state_of(whom, begin))
            states.append((rule, key, key.encode(), begin, end))
        return states


def caps(charges: Iterable[Charge]) -> list[Charge]:
    return [charge for charge in charges if isinstance(charge.rule, Cap)]


def require_amount(amount: object) -> None:
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"an amount is a whole number of units, 0 to 2^53 - 1, not {amount!r}")
