"""Rate limits and hard caps over any dimensions: one script and one round trip per decision, all or nothing.

    budgets = Budgets(connect(url), rules=[
        Rate("requests-per-minute", by=("user",), unit="requests", limit=60, per=60),
        Cap("tokens-per-day", by=("user",), unit="tokens", limit=200_000, period=Period.DAY),
    ], ledger=Ledger("spent.sqlite"))

    decision = await budgets.reserve({"user": "ann"}, {"requests": 1, "tokens": 900})
    if decision.lease is None:
        return Response(status_code=decision.status_code, headers=decision.headers())
    if not await budgets.start(decision.lease): ...
    await budgets.commit(decision.lease, {"tokens": 412})      # or refund

Redis is the fast admission layer, the ledger the truth: Redis may lose a counter at any time, which is
noticed (missing is not zero) and mended from the ledger.
"""

import asyncio
import logging
import math
import sqlite3
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, Literal, Self

import msgspec
from redis.exceptions import ResponseError

from okome.budget_scripts import OPEN_SEED, RESERVE, SEED, SETTLE, START
from okome.connection import UNAVAILABLE, Breaker, Clock, Line, Script, require_bytes
from okome.errors import EvictingServerError, StateLostError
from okome.headers import Quota, rate_limit_headers
from okome.keys import Keyspace, digest
from okome.ledger import Ledger

log = logging.getLogger(__name__)

MAX_AMOUNT = 2**53 - 1  # Lua counts in doubles
_SUBJECTS = 4096  # whose keys are kept
_PACK = msgspec.msgpack.Encoder().encode
_REFUSALS = {  # of a start
    b"DENIED": "denied",
    b"LOST": "state_lost",
    b"SETTLED": "already_settled",
    b"UNAVAILABLE": "unavailable",
}
_DROPPED = 1000  # counters at a time
_TRIES = 3  # at a counter that is lost again while it is rebuilt
_SEED_MS = 60_000  # to read the ledger, which may be busy, and write what was read
_LOCAL_STATES = 10_000  # of rates kept while Redis is gone; beyond that the oldest are forgotten


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
    "tokens". `limit`: in units. `where`: dimensions and values it is for, such as {"tier": "free"}; empty:
    for all.
    """

    name: str
    by: tuple[str, ...]
    unit: str
    limit: int
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in (self.name, self.unit):
            if not word.isascii() or not word.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{word!r} goes into headers: ASCII letters, digits, '-' and '_' only")
        if not 0 < self.limit <= MAX_AMOUNT:
            raise ValueError(f"{self.name}: the limit is 1 to 2^53 - 1, not {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Rate(_Rule):
    """`limit` units per `per` seconds, smoothly (GCRA), `burst` of them at once (all, by default)."""

    per: float = 60.0
    burst: int | None = None

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if not 0 < self.per < math.inf or (self.burst is not None and self.burst < 1):
            raise ValueError(f"{self.name}: per and burst are positive")
        if self.interval < 1e-6:
            raise ValueError(f"{self.name}: at most a million units a second can be told apart")

    @cached_property
    def interval(self) -> float:
        """Seconds for one unit to come back."""
        return self.per / self.limit

    @cached_property
    def tolerance(self) -> float:
        """Seconds that may be taken in advance."""
        return self.interval * (self.limit if self.burst is None else self.burst)

    @cached_property
    def life(self) -> str:
        """Milliseconds for which any state of it means something."""
        return str(math.ceil(self.tolerance * 1000) + 1)


@dataclass(frozen=True, kw_only=True)
class Cap(_Rule):
    """`limit` units per calendar period, hard: reserved and spent together never exceed it, but for debt."""

    period: Period = Period.DAY


Rule = Rate | Cap


class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"  # over a limit: 429
    UNAVAILABLE = "unavailable"  # Redis can't be reached, and a hard cap would have to be guessed: 503
    STATE_LOST = "state_lost"  # Redis lost a counter, and it could not be rebuilt: 503
    SETTLED = "settled"  # a lease of this id for the same was committed or refunded already: 409


class _Charge(msgspec.Struct, frozen=True):
    """What one rule takes part in: the key of its state (`wire`: as it is sent), how much, and a cap's period."""

    rule: Rule
    key: str
    wire: bytes
    amount: int
    begin: int = 0
    end: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Permission to spend what was reserved. `local`: given without Redis, from this process's share of the
    rates.
    """

    id: str
    charges: tuple[_Charge, ...]
    local: bool = False


class Decision(msgspec.Struct, frozen=True):
    """`retry_after`: seconds; None where waiting would not help, or nobody knows."""

    outcome: Outcome
    lease: Lease | None = None
    quotas: tuple[Quota, ...] = ()
    retry_after: float | None = None
    rule: str | None = None
    """The name of the rule that said no, or whose state is lost."""

    @property
    def status_code(self) -> int:
        return {Outcome.ALLOWED: 200, Outcome.DENIED: 429, Outcome.SETTLED: 409}.get(self.outcome, 503)

    def headers(self, *, draft: bool = True) -> dict[str, str]:
        """RateLimit, RateLimit-Policy (`draft`), x-ratelimit-*, Retry-After."""
        return rate_limit_headers(self.quotas, retry_after=self.retry_after, draft=draft)


class Budgets:
    """Rules over one Redis. `on_unavailable`: what rates do without Redis: "share" lets each process give out
    `local_share` of them, "deny" nothing. Hard caps always fail closed.

    Use as an async context manager, or call `aclose()` at the end. Hard caps without a ledger are refused on
    a server that evicts. `counts` tells what happened, by name.
    """

    def __init__(
        self,
        redis: Any,
        *,
        rules: Sequence[Rule],
        namespace: str = "default",
        ledger: Ledger | None = None,
        on_unavailable: Literal["share", "deny"] = "share",
        local_share: float = 0.25,
        lease_ttl: float = 30.0,
        started_ttl: float = 900.0,
        retention: float = 900.0,
        redis_timeout: float = 1.0,
        breaker: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        """`lease_ttl`, `started_ttl`: seconds after which an unsettled lease is refunded, or charged if it
        was started; longer than any computation. `retention`: seconds for which settling again changes
        nothing.
        """
        require_bytes(redis)
        if len({rule.name for rule in rules}) != len(rules):
            raise ValueError("two rules have the same name")
        if on_unavailable not in ("share", "deny"):
            raise ValueError(f"on_unavailable is 'share' or 'deny', not {on_unavailable!r}")
        if not 0 < local_share <= 1:
            raise ValueError(f"local_share is more than 0 and at most 1, not {local_share}")
        self.counts: Counter[str] = Counter()
        self._redis = redis
        self._rules = tuple(rules)
        self._ledger = ledger
        self._on_unavailable = on_unavailable
        self._local_share = local_share
        self._lease_ms, self._started_ms, self._retention_ms = (
            math.ceil(seconds * 1000) for seconds in (lease_ttl, started_ttl, retention)
        )
        self._line = Line(redis)
        self._timeout = redis_timeout
        self._limit = self._line.limit(redis_timeout)
        self._key = Keyspace("b", namespace)
        self._clock = clock or Clock()
        self._breaker = Breaker(breaker, self._clock.monotonic)
        self._states = lru_cache(_SUBJECTS)(self._find_states)
        self._epoch = self._key("epoch").encode()
        self._local: dict[str, float] = {}  # theoretical arrival times, monotonic
        self._checked = False
        # Of caps that Redis knows too little of: what was settled did not reach it, or may not have before we
        # began. Afterwards no more than there were leases when it went away: without it nobody gets one.
        self._stale: set[str] = set()
        self._checking, self._dropping = asyncio.Lock(), asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Gives its connection back to the client's pool; the ledger is the caller's to close."""
        await self._line.aclose()

    async def check(self) -> None:
        """Raises EvictingServerError; sqlite3.Error if the ledger can't be read. An unreachable server is asked
        again before the first decision.

        A process that ended may have settled what Redis never heard of. So every counter that the ledger knows
        is built anew from it, when it is first asked for.
        """
        async with self._checking:
            if self._checked or not any(isinstance(rule, Cap) for rule in self._rules):
                self._checked = True
                return
            try:
                if self._ledger is None:
                    await self._require_no_eviction()
                else:
                    await self._clock.sync(self._line, self._timeout)
                    self._stale.update(await self._current(self._ledger))
            except UNAVAILABLE as error:
                self._breaker.trip(error)
            else:
                self._checked = True

    async def _require_no_eviction(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                memory = await self._redis.info("memory")
        except ResponseError:
            memory = {}
        policy = memory.get("maxmemory_policy", "not told")
        if policy != "noeviction":
            raise EvictingServerError(
                f"hard caps need a ledger on a server that may evict them (maxmemory-policy: {policy})"
            )

    async def _current(self, ledger: Ledger) -> list[str]:
        """The ledger's counters whose period is not over."""
        now = self._clock.now()
        ends = tuple(f":{period}-{period.around(now)[0]}" for period in Period)
        return [key for key in await ledger.counters(self._key("cap", "") + ":") if key.endswith(ends)]

    async def initialise(self) -> None:
        """Without a ledger: declare that nothing has been spent yet, once for the life of the server's data.

        Until then, and after the server has lost its data, hard caps answer STATE_LOST. Raises what Redis
        raises.
        """
        await self._redis.set(self._key("epoch"), b"1", nx=True)

    # The life of a lease

    async def reserve(
        self, subject: Mapping[str, str], amounts: Mapping[str, int], *, lease: str | None = None
    ) -> Decision:
        """Whether `subject` ({dimension: value}) may spend `amounts` ({unit: estimate}); and if so, a lease
        for it.

        `lease`: an id of the caller's own makes a repeated call idempotent, for the same subject and amounts
        and within `retention`; once it is settled, the outcome is SETTLED. Never raises for Redis or the
        ledger; ValueError for a missing dimension or a bad amount, EvictingServerError as `check` does.
        """
        if not self._checked and not self._breaker.open:
            try:
                await self.check()
            except sqlite3.Error:
                self.counts["ledger_failed"] += 1
                log.exception("the ledger could not be read: nothing is decided without it")
                return Decision(Outcome.STATE_LOST, retry_after=1.0)
        identity = lease or uuid.uuid4().hex
        if self._checked and not self._breaker.open:
            try:
                if not self._clock.known:
                    await self._clock.sync(self._line, self._timeout)
                await self._drop_stale()
                for _ in range(_TRIES + len(self._rules)):
                    charges = self._charges(subject, amounts)
                    outcome, rule, retry, left = await self._reserve(identity, charges)
                    if outcome == b"LOST" and await self._reseed(charges[rule - 1]):
                        continue
                    if outcome != b"PERIOD":
                        return self._decide(identity, charges, outcome, rule, retry, left)
                self.counts["period_unclear"] += 1
            except UNAVAILABLE as error:
                self._breaker.trip(error)
        return self._without_redis(identity, self._charges(subject, amounts))

    async def start(self, lease: Lease) -> bool:
        """The work begins: from now on an expired lease is charged. Durable when it returns, if there is a
        ledger.

        False if what was reserved has been lost meanwhile and does not fit any more, was settled already, or
        can't be recorded: then don't work. The lease has been refunded then, unless it had been started before
        or, without a ledger, Redis does not answer.

        The ledger first: whoever rebuilds the counter meanwhile must know of this lease. Who is killed between
        the two is charged for what may have begun, at most.
        """
        charges = self._caps(lease)
        if lease.local or not charges:
            return True
        mark = _mark(lease.id, lease.charges)
        nothing = {charge.rule.unit: 0 for charge in lease.charges}
        new = True
        if self._ledger is not None:
            try:
                new = await self._ledger.start(mark, _entries(charges), self._clock.now())
            except sqlite3.Error:
                self.counts["ledger_failed"] += 1
                log.exception("the ledger did not take a start: the work is refused")
                await self._settle_in_redis(lease, nothing)
                return False
        try:
            outcome = await self._start(mark, charges)
        except UNAVAILABLE as error:
            self._breaker.trip(error)
            outcome = b"UNAVAILABLE"
        if outcome == b"OK":
            return True
        self.counts[_REFUSALS[outcome]] += 1
        # Of a repeated start the work may be under way: that stays charged.
        if self._ledger is None and outcome == b"DENIED":
            await self._settle_in_redis(lease, nothing)
        elif self._ledger is not None and new and outcome != b"SETTLED":
            try:
                await self._settle(lease, nothing)
            except sqlite3.Error:
                log.exception("the ledger did not take a refund: what did not begin is charged")
        return False

    async def _start(self, mark: str, charges: Sequence[_Charge]) -> bytes:
        await self._drop_stale()
        arguments = [[charge.amount, charge.rule.limit] for charge in charges]
        for _ in range(_TRIES + len(charges)):
            outcome, rule = await self._call(START, mark, charges, self._started_ms, arguments)
            if outcome != b"LOST" or not await self._reseed(charges[rule - 1]):
                break
        return outcome

    async def commit(self, lease: Lease, actual: Mapping[str, int] | None = None) -> None:
        """What it did cost, by unit; units not named cost what was reserved. Above the estimate is debt: it
        is spent all the same. May be repeated. Raises sqlite3.Error if the ledger, StateLostError if (without
        a ledger) Redis could not record it; with a ledger, Redis's absence is no error: what it counted is
        rebuilt before the next decision.
        """
        amounts = {charge.rule.unit: charge.amount for charge in lease.charges} | dict(actual or {})
        for amount in amounts.values():
            _require_amount(amount)
        await self._settle(lease, amounts)

    async def refund(self, lease: Lease) -> None:
        """It did not happen: all of it is given back, requests included. Otherwise as commit."""
        await self._settle(lease, {charge.rule.unit: 0 for charge in lease.charges})

    # Deciding

    def _charges(self, subject: Mapping[str, str], amounts: Mapping[str, int]) -> tuple[_Charge, ...]:
        for amount in amounts.values():
            _require_amount(amount)
        hour = int(self._clock.now() // 3600)
        return tuple(
            [
                _Charge(rule, key, wire, amounts[rule.unit], begin, end)
                for rule, key, wire, begin, end in self._states(tuple(subject.items()), tuple(amounts), hour)
            ]
        )

    def _find_states(
        self, subject: tuple[tuple[str, str], ...], units: tuple[str, ...], hour: int
    ) -> list[tuple[Rule, str, bytes, int, int]]:
        """Of the rules that count one of these units: their keys, and the periods of the caps among them."""
        values = dict(subject)
        states: list[tuple[Rule, str, bytes, int, int]] = []
        for rule in self._rules:
            if rule.unit not in units:
                continue
            if rule.where and any(values.get(name) != value for name, value in rule.where.items()):
                continue
            try:
                whom = digest("\0".join([f"{name}={values[name]}" for name in rule.by]))
            except KeyError as missing:
                raise ValueError(f"{rule.name} is by {missing}, which the subject does not say") from None
            begin, end = 0, 0
            if isinstance(rule, Cap):
                begin, end = rule.period.around(hour * 3600)
                key = self._key("cap", f"{rule.name}:{whom}:{rule.period}-{begin}")
            else:
                key = self._key("rate", f"{rule.name}:{whom}")
            states.append((rule, key, key.encode(), begin, end))
        return states

    async def _reserve(
        self, identity: str, charges: Sequence[_Charge]
    ) -> tuple[bytes, int, int, Sequence[int]]:
        arguments: list[str | int | float] = []
        for charge in charges:
            rule = charge.rule
            if isinstance(rule, Rate):
                arguments += "R", charge.amount, rule.interval, rule.tolerance, rule.life
            else:
                arguments += "C", charge.amount, rule.limit, charge.begin, charge.end
        outcome, rule_number, retry, *left = await self._run(
            RESERVE, _mark(identity, charges), charges, self._lease_ms, arguments
        )
        return outcome, rule_number, retry, left

    async def _call(
        self, script: Script, mark: str, charges: Sequence[_Charge], ttl: int, arguments: Sequence[Any]
    ) -> tuple[bytes, int]:
        outcome, rule, *_ = await self._run(script, mark, charges, ttl, arguments)
        return outcome, rule

    async def _run(
        self, script: Script, mark: str, charges: Sequence[_Charge], ttl: int, arguments: Sequence[Any]
    ) -> list[Any]:
        keys = [self._key("lease", mark).encode(), self._epoch, *[charge.wire for charge in charges]]
        packed = _PACK([mark, ttl, self._retention_ms, self._ledger is not None, arguments])
        sent = self._clock.monotonic()
        if self._limit is None:
            answer = await script(self._line, keys, packed)
        else:
            async with asyncio.timeout(self._limit):
                answer = await script(self._line, keys, packed)
        outcome, seconds, microseconds, *rest = answer
        self._clock.observe(sent, int(seconds), int(microseconds))
        return [outcome, *rest]

    def _decide(
        self,
        identity: str,
        charges: tuple[_Charge, ...],
        outcome: bytes,
        rule: int,
        retry: int,
        left: Sequence[int],
    ) -> Decision:
        if outcome == b"LOST":
            self.counts["state_lost"] += 1
            return Decision(Outcome.STATE_LOST, retry_after=1.0, rule=charges[rule - 1].rule.name)
        quotas = tuple(
            _quota(charge, remaining, reset / 1000)
            for charge, remaining, reset in zip(charges, left[::2], left[1::2], strict=True)
        )
        if outcome == b"OK":
            self.counts["allowed"] += 1
            return Decision(Outcome.ALLOWED, Lease(identity, charges), quotas)
        if outcome == b"SETTLED":
            self.counts["already_settled"] += 1
            return Decision(Outcome.SETTLED, None, quotas)
        self.counts["denied"] += 1
        retry_after = None if retry < 0 else retry / 1000
        return Decision(Outcome.DENIED, None, quotas, retry_after, charges[rule - 1].rule.name)

    def _without_redis(self, identity: str, charges: tuple[_Charge, ...]) -> Decision:
        """Hard caps fail closed; rates fail to this process's share of them, or closed as well."""
        self.counts["unavailable"] += 1
        if self._on_unavailable == "deny":
            return Decision(Outcome.UNAVAILABLE, retry_after=1.0)
        now = self._clock.monotonic()
        after: dict[str, float] = {}
        for charge in charges:
            rule = charge.rule
            if isinstance(rule, Cap):
                return Decision(Outcome.UNAVAILABLE, retry_after=1.0, rule=rule.name)
            interval = rule.interval / self._local_share
            burst = max(interval, rule.tolerance)  # the share of the burst, but never less than one unit
            after[charge.key] = max(self._local.get(charge.key, now), now) + charge.amount * interval
            over = after[charge.key] - now - burst - 1e-6
            if over > 0:
                self.counts["denied_locally"] += 1
                never = charge.amount * interval > burst + 1e-6
                return Decision(Outcome.DENIED, retry_after=None if never else over, rule=rule.name)
        for key, arrival in after.items():
            self._local.pop(key, None)
            self._local[key] = arrival
        while len(self._local) > _LOCAL_STATES:
            del self._local[next(iter(self._local))]
        self.counts["allowed_locally"] += 1
        return Decision(Outcome.ALLOWED, Lease(identity, charges, local=True))

    # Settling and mending

    async def _settle(self, lease: Lease, amounts: Mapping[str, int]) -> None:
        if lease.local:
            return
        caps, mark = self._caps(lease), _mark(lease.id, lease.charges)
        failure: sqlite3.Error | None = None
        recorded = False
        try:
            if self._ledger is not None and caps:
                entries = [(charge.key, amounts[charge.rule.unit]) for charge in caps]
                try:
                    stands = await self._ledger.settle(mark, entries, self._clock.now())
                    amounts = dict(amounts) | {charge.rule.unit: stands[charge.key] for charge in caps}
                except sqlite3.Error as error:
                    self.counts["ledger_failed"] += 1
                    failure = error
            recorded = await self._settle_in_redis(lease, amounts)
        finally:  # also when cancelled: the ledger has it or is about to
            if not recorded and self._ledger is not None:
                self._stale.update(charge.key for charge in caps)
        if failure is not None:
            raise failure
        if not recorded and self._ledger is None and caps:
            raise StateLostError("Redis could not record what was spent, and there is no ledger")

    async def _settle_in_redis(self, lease: Lease, amounts: Mapping[str, int]) -> bool:
        arguments: list[list[str | int | float]] = []
        for charge in lease.charges:
            rule, actual = charge.rule, amounts[charge.rule.unit]
            if isinstance(rule, Rate):
                arguments.append(["R", charge.amount, actual, rule.interval])
            else:
                arguments.append(["C", charge.amount, actual, charge.end])
        try:
            for _ in range(_TRIES + len(lease.charges)):
                outcome, rule_number = await self._call(
                    SETTLE, _mark(lease.id, lease.charges), lease.charges, 0, arguments
                )
                if outcome == b"OK":
                    self.counts["settled"] += 1
                    return True
                if not await self._reseed(lease.charges[rule_number - 1]):
                    break
        except UNAVAILABLE as error:
            self._breaker.trip(error)
        self.counts["unsettled"] += 1
        return False

    async def _drop_stale(self) -> None:
        """Counters that know less than the ledger: without them they are rebuilt from it."""
        if not self._stale and not self._dropping.locked():
            return
        async with asyncio.timeout(self._timeout), self._dropping:
            while self._stale:
                keys = tuple(islice(self._stale, _DROPPED))
                self._stale.difference_update(keys)
                try:
                    # And what others are about to rebuild them from: they may have read it earlier.
                    await self._redis.delete(*keys, *map(self._seed_key, keys))
                except BaseException:
                    self._stale.update(keys)
                    raise

    async def _reseed(self, charge: _Charge) -> bool:
        """Rebuild a lost counter from the ledger, or find that it has changed meanwhile: look again. False if
        there is no ledger, or it fails.
        """
        if self._ledger is None:
            return False
        keys, now = [charge.key, self._seed_key(charge.key)], self._clock.now()
        async with asyncio.timeout(self._timeout):
            token = await OPEN_SEED(self._redis, keys, uuid.uuid4().hex, _SEED_MS)
        if token is None:
            return True
        try:
            account = await self._ledger.account(charge.key, now - self._retention_ms / 1000)
        except sqlite3.Error:
            self.counts["ledger_failed"] += 1
            log.exception("the ledger could not be read: a lost counter stays lost")
            return False
        fields: list[str | int] = ["d", 0]
        reserved, expiries = 0, [0]
        for lease, amount, at in account.open:
            expiry = int(at * 1000) + self._started_ms
            fields += [f"L:{lease}", f"B {amount} {expiry}"]
            reserved += amount
            expiries.append(expiry)
        for lease, amount, at in account.settled:
            fields += [f"T:{lease}", f"S {amount} {int(at * 1000) + self._retention_ms}"]
        fields += ["r", reserved, "n", min(expiries[1:], default=0)]
        async with asyncio.timeout(self._timeout):
            seeded = await SEED(self._redis, keys, token, account.spent, charge.end, *fields)
        self.counts["seeded"] += seeded
        return True

    def _seed_key(self, cap: str) -> str:
        return self._key("seed", digest(cap))

    @staticmethod
    def _caps(lease: Lease) -> list[_Charge]:
        return [charge for charge in lease.charges if isinstance(charge.rule, Cap)]


def _mark(identity: str, charges: Sequence[_Charge]) -> str:
    """What a lease is known by in Redis and in the ledger: the same id for anything else is another lease."""
    return digest("\0".join([identity, *[f"{charge.key} {charge.amount}" for charge in charges]]))


def _entries(charges: Sequence[_Charge]) -> list[tuple[str, int]]:
    return [(charge.key, charge.amount) for charge in charges]


def _require_amount(amount: object) -> None:
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"an amount is a whole number of units, 0 to 2^53 - 1, not {amount!r}")


def _quota(charge: _Charge, remaining: int, reset: float) -> Quota:
    rule = charge.rule
    window = rule.per if isinstance(rule, Rate) else charge.end - charge.begin
    return Quota(rule.name, rule.unit, rule.limit, remaining, window, reset)
