"""Counters that Redis lost, or that know less than the ledger: built anew from it."""

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

from okome.budget_wire import Answer, Said, Wire
from okome.connection import Clock
from okome.ledger import Ledger
from okome.rules import Charge, Period

log = logging.getLogger(__name__)

TRIES = 3  # at a counter that is lost again while it is rebuilt
_DROPPED = 1000  # counters at a time


class Reseeding:
    """`retention`: seconds for which a settled lease is known. `timeout`: of all that is dropped at once."""

    def __init__(
        self,
        wire: Wire,
        ledger: Ledger | None,
        clock: Clock,
        counts: Counter[str],
        *,
        retention: float,
        timeout: float,
    ) -> None:
        self._wire = wire
        self._ledger = ledger
        self._clock = clock
        self._counts = counts
        self._retention = retention
        self._timeout = timeout
        # Of caps that Redis knows too little of: what was settled did not reach it, or may not have before we
        # began. Afterwards no more than there were leases when it went away: without it nobody gets one.
        self.stale: set[str] = set()
        self._dropping = asyncio.Lock()
        self._looking = asyncio.Lock()
        wire.anew = self.drop_stale

    async def distrust_all(self, ledger: Ledger) -> None:
        """Whatever counter the ledger knows, of a period that is not over."""
        now = self._clock.now()
        ends = tuple(f":{period}-{period.around(now)[0]}" for period in Period)
        known = await ledger.counters(self._wire.caps_begin_with)
        self.stale.update(key for key in known if key.endswith(ends))

    def distrust(self, caps: Iterable[Charge]) -> None:
        self.stale.update(charge.key for charge in caps)

    @property
    def due(self) -> bool:
        """Whether there is something to drop first, or to find out, or somebody is at it."""
        return bool(self.stale) or self._dropping.locked() or self._wire.in_doubt

    async def drop_stale(self) -> None:
        """Counters that know less than the ledger: without them they are rebuilt from it. Raises sqlite3.Error."""
        if self._wire.in_doubt:
            await self._look()
        async with asyncio.timeout(self._timeout), self._dropping:
            while self.stale:
                keys = tuple(islice(self.stale, _DROPPED))
                self.stale.difference_update(keys)
                try:
                    await self._wire.drop(keys)
                except BaseException:
                    self.stale.update(keys)
                    raise

    async def _look(self) -> None:
        """After an outage: a replica that took over, or a server that was started from its disk, may have lost the last
        moments. Then every counter is built anew, once.
        """
        async with self._looking:
            breaks = self._wire.breaks
            if not self._wire.in_doubt:
                return
            lost = self._ledger is not None and not await self._wire.remembers()
            if lost and self._ledger is not None:
                await self.distrust_all(self._ledger)
                self._counts["fell_back"] += 1
            self._wire.trust(breaks, anew=lost)

    async def answered(self, ask: Callable[[], Awaitable[Answer]], charges: int) -> Answer:
        """Its answer; asked again as long as it is that a counter is lost, and that could be rebuilt."""
        answer = await ask()
        for _ in range(TRIES + charges - 1):
            if answer.said is not Said.LOST or not await self.rebuild(answer.charge):
                break
            answer = await ask()
        return answer

    async def rebuild(self, cap: Charge | None) -> bool:
        """A lost counter from the ledger, or find that it has changed meanwhile: look again. False if there is
        no ledger, or it fails.
        """
        if self._ledger is None or cap is None:
            return False
        now = self._clock.now()
        token = await self._wire.open_seed(cap)
        if token is None:
            return True
        try:
            account = await self._ledger.account(cap.key, now - self._retention)
        except sqlite3.Error:
            self._counts["ledger_failed"] += 1
            log.exception("the ledger could not be read: a lost counter stays lost")
            return False
        self._counts["seeded"] += await self._wire.seed(cap, token, account)
        return True
