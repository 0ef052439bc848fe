"""Who decides over the budgets: Redis, or without it the ledger, this process's share, or nobody."""

import asyncio
from enum import StrEnum

from okome.budget_wire import Wire
from okome.connection import UNAVAILABLE, Breaker, Clock
from okome.ledger import Ledger
from okome.tasks import Tasks


class Mode(StrEnum):
    """Who decides over what is asked for now."""

    REDIS = "redis"
    LEDGER = "ledger"  # caps, without Redis; rates by this process's share of them
    SHARE = "share"  # rates, without Redis; there are no caps
    REFUSING = "refusing"  # nobody: 503, or without Redis everything of which the ledger would have to know


class Watch:
    """`without`: the mode that there is without Redis. `ledger`: the one that caps need, if there are any and it is
    there.
    """

    def __init__(
        self, wire: Wire, breaker: Breaker, clock: Clock, tasks: Tasks, ledger: Ledger | None, without: Mode
    ) -> None:
        self._wire = wire
        self._breaker = breaker
        self._clock = clock
        self._tasks = tasks
        self._ledger = ledger
        self._without = without
        self._asking: asyncio.Task[None] | None = None
        self.refused = False
        """Whether Redis, though there, did not decide what it was asked last."""

    @property
    def unheard(self) -> bool:
        """A call has failed, and Redis was not heard of since."""
        return self._breaker.tripped > self._clock.heard

    @property
    def mode(self) -> Mode:
        """As far as is known."""
        if self._ledger is not None and self._ledger.trouble is not None:
            return Mode.REFUSING
        return self._without if self.unheard or self.refused else Mode.REDIS

    def ask(self) -> asyncio.Task[None]:
        """Redis whether it is there, and a ledger that is in trouble whether it can be written. One question at a
        time, however many want to know.
        """
        if self._asking is None or self._asking.done():
            self._asking = self._tasks.spawn(self._ask())
        return self._asking

    async def _ask(self) -> None:
        if not self._breaker.open:
            try:
                await self._wire.ask_time()
            except UNAVAILABLE as error:
                self._breaker.trip(error)
        if self._ledger is not None:
            await self._ledger.look()
