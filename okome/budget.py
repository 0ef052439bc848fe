"""Rate limits and hard caps over any dimensions: one script and one round trip per decision, all or nothing.

    budgets = Budgets(connect(url), rules=[
        Rate(name="requests-per-minute", by=("user",), unit="requests", limit=60, per=60),
        Cap(name="tokens-per-day", by=("user",), unit="tokens", limit=200_000, period=Period.DAY),
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
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import msgspec

from okome.admission import Admission
from okome.arguments import require_name, require_seconds
from okome.budget_wire import Wire
from okome.connection import UNAVAILABLE, Breaker, Clock, Loop
from okome.decision import Decision, Lease, Outcome
from okome.errors import EvictingServerError, StateLostError
from okome.keys import Keyspace
from okome.ledger import Ledger
from okome.local_share import LocalShare
from okome.mode import Mode, Watch
from okome.owed import Owed
from okome.reseeding import Reseeding
from okome.rules import Charge, Rule, Rules, require_amount
from okome.settlement import Settlement
from okome.tasks import Tasks

log = logging.getLogger(__name__)

SETTLING = 10.0  # s that closing waits for what is still to be recorded


class Budgets:
    """Rules over one Redis. `on_unavailable`: what happens without Redis. "share" lets each process give out
    `local_share` of the rates, and hard caps fail closed; "deny" gives out nothing. "ledger" does as "share" with the
    rates, and decides over hard caps from the ledger: exactly, in one process and in several over one file, where each
    start is entered only if it fits. What was reserved and has not begun is then known to its own process alone, so
    that of several some may be told at the start that it does not fit any more.

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
        on_unavailable: Literal["share", "deny", "ledger"] = "share",
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
        nothing. Raises TypeError or ValueError for what is no number of seconds, and for rules that are none.
        """
        for name, seconds in (
            ("lease_ttl", lease_ttl),
            ("started_ttl", started_ttl),
            ("retention", retention),
            ("redis_timeout", redis_timeout),
        ):
            require_seconds(name, seconds)
        require_seconds("breaker", breaker, zero=True)
        if on_unavailable not in ("share", "deny", "ledger"):
            raise ValueError(f"on_unavailable is 'share', 'deny' or 'ledger', not {on_unavailable!r}")
        if ledger is not None and not isinstance(ledger, Ledger):
            raise TypeError(f"ledger is a Ledger, as Ledger('spent.sqlite') opens it, not {ledger!r}")
        deciding = on_unavailable == "ledger"
        if deciding and ledger is None:
            raise ValueError("on_unavailable='ledger' needs a ledger")
        self.counts: Counter[str] = Counter()
        self._clock = clock or Clock()
        self._loop = Loop("these Budgets belong")
        self._tasks = Tasks()
        self._ledger = ledger
        key = Keyspace("b", namespace)
        self._rules = Rules(rules, key)
        self.rules = tuple(rules)
        self._wire = Wire(
            redis,
            key,
            self._clock,
            redis_timeout,
            lease_ms=math.ceil(lease_ttl * 1000),
            started_ms=math.ceil(started_ttl * 1000),
            retention_ms=math.ceil(retention * 1000),
            ledger=ledger is not None,
        )
        self._breaker = Breaker(breaker, self._clock.monotonic, self._tasks, self._wire.reconnect)
        self._reseeding = Reseeding(
            self._wire, ledger, self._clock, self.counts, retention=retention, timeout=redis_timeout
        )
        share = LocalShare(local_share, self._clock.monotonic)
        self._admission = Admission(
            self._wire,
            self._reseeding,
            self._breaker,
            self._clock,
            None if on_unavailable == "deny" else share,
            ledger if deciding else None,
            lease_ttl,
            self.counts,
        )
        self._settlement = Settlement(
            self._wire,
            self._reseeding,
            ledger,
            self._breaker,
            self._clock,
            self.counts,
            deciding=deciding,
        )
        self._deciding = deciding
        capped = self._rules.capped
        without = Mode.REFUSING
        if on_unavailable != "deny" and (deciding or not capped):
            without = Mode.LEDGER if capped else Mode.SHARE
        needed = ledger if capped else None
        self._watch = Watch(self._wire, self._breaker, self._clock, self._tasks, needed, without)
        self._owed = Owed(self._settlement.settle, self._tasks, self.counts)
        self._checked = False
        self._checking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            await self.check()
        except sqlite3.Error:
            log.exception("the ledger could not be read: it is asked again before the first decision")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Waits SETTLING for what is to be committed soon, and gives its connection back to the client's pool; the
        ledger is the caller's to close.
        """
        self._loop.require()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=SETTLING)
        if self._owed:
            log.error("what %d leases spent is not recorded: the ledger did not take it", len(self._owed))
        await self._wire.aclose()

    async def check(self) -> None:
        """Raises EvictingServerError; sqlite3.Error if the ledger can't be read. An unreachable server is asked
        again before the first decision.

        A process that ended may have settled what Redis never heard of. So every counter that the ledger knows
        is built anew from it, when it is first asked for.
        """
        self._loop.require()
        async with self._checking:
            if self._checked or not self._rules.capped:
                self._checked = True
                return
            try:
                if self._ledger is None:
                    policy = await self._wire.eviction_policy()
                    if policy != "noeviction":
                        raise EvictingServerError(
                            "hard caps need a ledger on a server that may evict them "
                            f"(maxmemory-policy: {policy})"
                        )
                else:
                    await self._wire.sync_clock()
                    await self._reseeding.distrust_all(self._ledger)
            except UNAVAILABLE as error:
                self._breaker.trip(error)
            else:
                self._checked = True

    async def initialise(self) -> None:
        """Without a ledger: declare that nothing has been spent yet, once for the life of the server's data.

        Until then, and after the server has lost its data, hard caps answer STATE_LOST. Raises what Redis
        raises.
        """
        self._loop.require()
        await self._wire.set_epoch()

    # Who decides

    @property
    def redis_available(self) -> bool:
        """When last asked: it answered, and decided."""
        return not self._watch.unheard and not self._watch.refused

    @property
    def ledger_trouble(self) -> str | None:
        """Why the ledger could not be written when last tried, in one sentence."""
        return None if self._ledger is None else self._ledger.trouble

    @property
    def mode(self) -> Mode:
        """How requests are decided, as far as is known; `look` asks."""
        return self._watch.mode

    async def look(self, within: float = 1.0) -> Mode:
        """The mode; Redis is asked for it first, and a ledger that is in trouble as well, as long as `within` seconds
        allow.
        """
        self._loop.require()
        await asyncio.wait({self._watch.ask()}, timeout=within)
        return self.mode

    def require(self, subject: Mapping[str, str], amounts: Mapping[str, int]) -> None:
        """Raises as `reserve` does for a subject or amounts that it could not take."""
        self._rules.charges(subject, amounts, self._clock.now())

    # The life of a lease

    async def reserve(
        self, subject: Mapping[str, str], amounts: Mapping[str, int], *, lease: str | None = None
    ) -> Decision:
        """Whether `subject` ({dimension: value}) may spend `amounts` ({unit: estimate}); and if so, a lease
        for it.

        `lease`: an id of the caller's own makes a repeated call idempotent, for the same subject and amounts
        and within `retention`; once it is settled, the outcome is SETTLED. Never raises for Redis or the
        ledger; ValueError for a dimension that a rule asks for and the subject does not say, a unit that no rule
        counts, no unit at all (what costs nothing says 0), or a bad amount; TypeError for a user, a tenant … that is
        no text; EvictingServerError as `check` does.
        """
        self._loop.require()
        if lease is not None:
            require_name("lease", lease)
        without = self._deciding and self._watch.unheard
        if without:
            self._watch.ask()  # and nobody waits for it
        elif not self._checked and not self._breaker.open:
            try:
                await self.check()
            except sqlite3.Error:
                self.counts["ledger_failed"] += 1
                log.exception("the ledger could not be read: nothing is decided without it")
                return self._explained(Decision(Outcome.STATE_LOST, retry_after=1.0))
        identity = lease or os.urandom(16).hex()
        units = tuple(amounts) if isinstance(amounts, Mapping) else ()

        def charges() -> tuple[Charge, ...]:
            return self._rules.charges(subject, amounts, self._clock.now())

        if self._checked and not without and not self._breaker.open:
            decision = await self._admission.by_redis(identity, units, charges, len(self._rules))
            self._watch.refused = decision is None and not self._watch.unheard
            if decision is not None:
                return self._explained(decision)
        return self._explained(await self._admission.without_redis(identity, units, charges()))

    def _explained(self, decision: Decision) -> Decision:
        """With the reason why nobody knows, if the ledger is one."""
        if decision.outcome not in (Outcome.STATE_LOST, Outcome.UNAVAILABLE) or self.ledger_trouble is None:
            return decision
        return msgspec.structs.replace(decision, reason=self.ledger_trouble)

    async def start(self, lease: Lease) -> bool:
        """The work begins: from now on an expired lease is charged. Durable when it returns, if there is a
        ledger.

        False if what was reserved has been lost meanwhile and does not fit any more, was settled already, or
        can't be recorded: then don't work. The lease has been refunded then, unless it had been started before
        or, without a ledger, Redis does not answer.
        """
        self._loop.require()
        _require_lease(lease)
        return await self._settlement.start(lease)

    async def commit(self, lease: Lease, actual: Mapping[str, int] | None = None) -> None:
        """What it did cost, by unit; units not named cost what was reserved. Above the estimate is debt: it
        is spent all the same. May be repeated. Raises ValueError for a unit that was not reserved; sqlite3.Error
        if the ledger, StateLostError if (without a ledger) Redis could not record it; with a ledger, Redis's
        absence is no error: what it counted is rebuilt before the next decision.
        """
        self._loop.require()
        await self._settlement.settle(lease, _spent(lease, actual))

    def commit_soon(self, lease: Lease, actual: Mapping[str, int] | None = None) -> None:
        """As commit, in a task of its own that `aclose` waits for: who pays has his answer by then, or has hung up.
        Raises ValueError for amounts that can't be. What the ledger does not take, since its disk is full, is tried
        again until it does. What can't be recorded is logged and counted; the lease ends by itself, and is charged as
        it was reserved if it was started.
        """
        self._loop.require()
        self._tasks.spawn(self._commit_or_log(lease, _spent(lease, actual)))

    async def _commit_or_log(self, lease: Lease, amounts: Mapping[str, int]) -> None:
        try:
            await self._settlement.settle(lease, amounts)
        except sqlite3.Error:
            self._owed.add(lease, amounts)
        except StateLostError:
            log.exception("what was spent could not be recorded")

    async def refund(self, lease: Lease) -> None:
        """It did not happen: all of it is given back, requests included. Otherwise as commit."""
        self._loop.require()
        _require_lease(lease)
        await self._settlement.settle(lease, {charge.rule.unit: 0 for charge in lease.charges})


def _require_lease(lease: object) -> None:
    if not isinstance(lease, Lease):
        raise TypeError(f"lease is that of a Decision that allowed it, not {lease!r}")


def _spent(lease: Lease, actual: Mapping[str, int] | None) -> dict[str, int]:
    """By unit; those not named, as reserved."""
    _require_lease(lease)
    if actual is not None and not isinstance(actual, Mapping):
        raise TypeError(f"actual is {{unit: amount}}, not {actual!r}")
    reserved = {charge.rule.unit: charge.amount for charge in lease.charges}
    for unit in actual or ():
        if unit not in lease.units:
            raise ValueError(f"{unit!r} was not reserved: the lease is for {', '.join(sorted(lease.units))}")
    amounts = reserved | dict(actual or {})
    for amount in amounts.values():
        require_amount(amount)
    return amounts
