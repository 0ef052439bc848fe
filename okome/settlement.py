"""From a lease on: the work begins, and what it did cost is recorded, in the ledger first and then in Redis."""

import logging
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence

from okome.budget_wire import Said, Wire
from okome.connection import UNAVAILABLE, Breaker, Clock
from okome.decision import Lease
from okome.errors import StateLostError
from okome.ledger import Ledger
from okome.ledger_file import Entered
from okome.reseeding import Reseeding
from okome.rules import Charge, caps

log = logging.getLogger(__name__)

_REFUSALS: dict[Said | None, str] = {  # of a start: how they are counted
    Said.DENIED: "denied",
    Said.LOST: "state_lost",
    Said.SETTLED: "already_settled",
    None: "unavailable",
}


class Settlement:
    """`deciding`: whether the ledger decides without Redis. Then each start has to fit by the ledger as well: of
    several processes, some may not reach Redis, and what these begin is in no counter.
    """

    def __init__(
        self,
        wire: Wire,
        reseeding: Reseeding,
        ledger: Ledger | None,
        breaker: Breaker,
        clock: Clock,
        counts: Counter[str],
        *,
        deciding: bool,
    ) -> None:
        self._wire = wire
        self._reseeding = reseeding
        self._ledger = ledger
        self._breaker = breaker
        self._clock = clock
        self._counts = counts
        self._deciding = deciding

    async def start(self, lease: Lease) -> bool:
        """The ledger first: whoever rebuilds the counter meanwhile must know of this lease. Who is killed
        between the two is charged for what may have begun, at most.
        """
        charges, nothing = caps(lease.charges), {charge.rule.unit: 0 for charge in lease.charges}
        if lease.local or not charges:
            return True
        new = True
        if self._ledger is not None:
            entries = [(charge.key, charge.amount) for charge in charges]
            limits = [charge.rule.limit for charge in charges] if self._deciding else None
            try:
                entered = await self._ledger.start(lease.mark, entries, self._clock.now(), limits)
            except sqlite3.Error:
                self._counts["ledger_failed"] += 1
                log.exception("the ledger did not take a start: the work is refused")
                await self._settle_in_redis(lease, nothing)
                return False
            if entered is Entered.ENDED:
                self._counts["already_settled"] += 1
                return False
            if entered is Entered.OVER:  # the counter knows too little, as it allowed this
                self._counts["denied_by_ledger"] += 1
                await self._settle_in_redis(lease, nothing)
                self._reseeding.distrust(charges)
                return False
            new = entered is Entered.NEW
        said = None if self._left_alone else await self._start_in_redis(lease.mark, charges)
        if said is Said.OK:
            return True
        if said is None and self._deciding:
            self._counts["started_by_ledger"] += 1
            self._reseeding.distrust(charges)
            return True
        self._counts[_REFUSALS[said]] += 1
        # Of a repeated start the work may be under way: that stays charged.
        if self._ledger is None and said is Said.DENIED:
            await self._settle_in_redis(lease, nothing)
        elif self._ledger is not None and new and said is not Said.SETTLED:
            try:
                await self.settle(lease, nothing)
            except sqlite3.Error:
                log.exception("the ledger did not take a refund: what did not begin is charged")
        return False

    @property
    def _left_alone(self) -> bool:
        """Redis has failed and was not heard of since: what it does not hear of it is told by the ledger."""
        return self._deciding and self._breaker.tripped > self._clock.heard

    async def _start_in_redis(self, mark: str, charges: Sequence[Charge]) -> Said | None:
        """None where it has no answer."""
        try:
            if self._reseeding.due:
                await self._reseeding.drop_stale()
            answer = await self._reseeding.answered(lambda: self._wire.start(mark, charges), len(charges))
        except UNAVAILABLE as error:
            self._breaker.trip(error)
        except sqlite3.Error:
            self._counts["ledger_failed"] += 1
            log.exception("the ledger could not be read: the work is refused")
        else:
            return answer.said
        return None

    async def settle(self, lease: Lease, amounts: Mapping[str, int]) -> None:
        """By unit. Raises as Budgets.commit."""
        if lease.local:
            return
        charges = caps(lease.charges)
        failure: sqlite3.Error | None = None
        recorded = False
        try:
            if self._ledger is not None and charges:
                entries = [(charge.key, amounts[charge.rule.unit]) for charge in charges]
                try:
                    stands = await self._ledger.settle(lease.mark, entries, self._clock.now())
                    amounts = dict(amounts) | {charge.rule.unit: stands[charge.key] for charge in charges}
                except sqlite3.Error as error:
                    self._counts["ledger_failed"] += 1
                    failure = error
            recorded = await self._settle_in_redis(lease, amounts)
        finally:  # also when cancelled: the ledger has it or is about to
            if not recorded and self._ledger is not None:
                self._reseeding.distrust(charges)
        if failure is not None:
            raise failure
        if not recorded and self._ledger is None and charges:
            raise StateLostError("Redis could not record what was spent, and there is no ledger")

    async def _settle_in_redis(self, lease: Lease, amounts: Mapping[str, int]) -> bool:
        mark, charges = lease.mark, lease.charges
        if self._left_alone:
            self._counts["unsettled"] += 1
            return False
        try:
            answer = await self._reseeding.answered(
                lambda: self._wire.settle(mark, charges, amounts), len(charges)
            )
        except UNAVAILABLE as error:
            self._breaker.trip(error)
        except sqlite3.Error:
            self._counts["ledger_failed"] += 1
            log.exception("the ledger could not be read: it will tell Redis later what was spent")
        else:
            if answer.said is Said.OK:
                self._counts["settled"] += 1
                return True
        self._counts["unsettled"] += 1
        return False
