"""Whether somebody may spend: by Redis, or without it by the ledger and this process's own share."""

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable

from okome.budget_wire import Answer, Said, Wire
from okome.connection import UNAVAILABLE, Breaker, Clock
from okome.decision import Decision, Lease, Outcome
from okome.ledger import Ledger
from okome.ledger_file import Entered
from okome.local_share import LocalShare, Refused
from okome.reseeding import TRIES, Reseeding
from okome.rules import Cap, Charge, caps

log = logging.getLogger(__name__)


class Admission:
    """`share`: None where nothing is given out without Redis. `ledger`: the one that decides over caps then, if one
    does; `lease_ttl`: seconds for which it holds what was reserved.
    """

    def __init__(
        self,
        wire: Wire,
        reseeding: Reseeding,
        breaker: Breaker,
        clock: Clock,
        share: LocalShare | None,
        ledger: Ledger | None,
        lease_ttl: float,
        counts: Counter[str],
    ) -> None:
        self._wire = wire
        self._reseeding = reseeding
        self._breaker = breaker
        self._clock = clock
        self._share = share
        self._ledger = ledger
        self._lease_ttl = lease_ttl
        self._counts = counts

    async def by_redis(
        self, identity: str, units: tuple[str, ...], charges: Callable[[], tuple[Charge, ...]], rules: int
    ) -> Decision | None:
        """None where Redis has no answer. `charges`: of these units, by what is known of the time then; `rules`: how
        many they are at most.
        """
        try:
            if not self._clock.known:
                await self._wire.sync_clock()
            if self._reseeding.due:
                await self._reseeding.drop_stale()
            for _ in range(TRIES + rules):
                wanted = charges()
                answer = await self._wire.reserve(identity, wanted)
                if answer.said is Said.LOST and await self._reseeding.rebuild(answer.charge):
                    continue
                if answer.said is not Said.PERIOD:
                    return self._decide(Lease(identity, wanted, units=units), answer)
            self._counts["period_unclear"] += 1
        except UNAVAILABLE as error:
            self._breaker.trip(error)
        except sqlite3.Error:
            self._counts["ledger_failed"] += 1
            log.exception("the ledger could not be read: nothing is decided without it")
            return Decision(Outcome.STATE_LOST, retry_after=1.0)
        return None

    def _decide(self, lease: Lease, answer: Answer) -> Decision:
        rule = None if answer.charge is None else answer.charge.rule.name
        if answer.said is Said.LOST:
            self._counts["state_lost"] += 1
            return Decision(Outcome.STATE_LOST, retry_after=1.0, rule=rule)
        left = answer.left
        quotas = tuple(
            [
                charge.rule.quota(charge, remaining, reset / 1000)
                for charge, remaining, reset in zip(lease.charges, left[::2], left[1::2], strict=True)
            ]
        )
        if answer.said is Said.OK:
            self._counts["allowed"] += 1
            return Decision(Outcome.ALLOWED, lease, quotas)
        if answer.said is Said.SETTLED:
            self._counts["already_settled"] += 1
            return Decision(Outcome.SETTLED, None, quotas)
        self._counts["denied"] += 1
        return Decision(Outcome.DENIED, None, quotas, None if answer.retry < 0 else answer.retry / 1000, rule)

    async def without_redis(
        self, identity: str, units: tuple[str, ...], charges: tuple[Charge, ...]
    ) -> Decision:
        """Caps by the ledger, or closed; rates fail to this process's share of them, or closed as well."""
        self._counts["unavailable"] += 1
        if self._share is None:
            return Decision(Outcome.UNAVAILABLE, retry_after=1.0)
        if self._ledger is not None and (capped := caps(charges)):
            return await self._by_ledger(
                self._ledger, self._share, Lease(identity, charges, units=units), capped
            )
        refused = self._share.take(charges)
        if refused is not None:
            return self._over_share(refused)
        self._counts["allowed_locally"] += 1
        return Decision(Outcome.ALLOWED, Lease(identity, charges, local=True, units=units))

    async def _by_ledger(
        self, ledger: Ledger, share: LocalShare, lease: Lease, capped: list[Charge]
    ) -> Decision:
        asked = [(charge.key, charge.amount, charge.rule.limit) for charge in capped]
        try:
            answer = await ledger.reserve(lease.mark, asked, self._lease_ttl)
        except sqlite3.Error:
            self._counts["ledger_failed"] += 1
            log.exception("without Redis and the ledger nothing is decided")
            return Decision(Outcome.UNAVAILABLE, retry_after=1.0)
        now = self._clock.now()
        quotas = tuple(
            [
                charge.rule.quota(charge, charge.rule.limit - spent, charge.end - now)
                for charge, spent in zip(capped, answer.spent, strict=True)
            ]
        )
        if answer.over is not None:
            over = capped[answer.over]
            self._counts["denied_by_ledger"] += 1
            retry = None if over.amount > over.rule.limit else over.end - now
            return Decision(Outcome.DENIED, None, quotas, retry, over.rule.name)
        if answer.said is Entered.ENDED:
            self._counts["already_settled"] += 1
            return Decision(Outcome.SETTLED, None, quotas)
        rates = [charge for charge in lease.charges if charge not in capped]
        refused = share.take(rates) if answer.said is Entered.NEW else None
        if refused is not None:
            await ledger.release(lease.mark)
            return self._over_share(refused)
        self._counts["allowed_by_ledger"] += 1
        return Decision(Outcome.ALLOWED, lease, quotas)

    def _over_share(self, refused: Refused) -> Decision:
        if isinstance(refused.charge.rule, Cap):
            return Decision(Outcome.UNAVAILABLE, retry_after=1.0, rule=refused.charge.rule.name)
        self._counts["denied_locally"] += 1
        return Decision(Outcome.DENIED, retry_after=refused.retry_after, rule=refused.charge.rule.name)
