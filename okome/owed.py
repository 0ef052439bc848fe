"""What was spent and the ledger did not take, its disk full, read-only or held by another: kept until it does."""

import asyncio
import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping

from okome.decision import Lease
from okome.tasks import Tasks

log = logging.getLogger(__name__)

AGAIN = 1.0  # s between two tries
_KEPT = 10_000  # settlements; beyond that the oldest are given up


class Owed:
    """One task tries again, the oldest first. `settle` raises sqlite3.Error as long as it is in vain."""

    def __init__(
        self,
        settle: Callable[[Lease, Mapping[str, int]], Awaitable[None]],
        tasks: Tasks,
        counts: Counter[str],
    ) -> None:
        self._settle = settle
        self._tasks = tasks
        self._counts = counts
        self._owed: deque[tuple[Lease, Mapping[str, int]]] = deque()

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, lease: Lease, amounts: Mapping[str, int]) -> None:
        """`amounts`: by unit."""
        self._counts["owed"] += 1
        self._owed.append((lease, amounts))
        if len(self._owed) == 1:
            log.warning("what was spent could not be recorded, and is kept until it can", exc_info=True)
            self._tasks.spawn(self._work())
        elif len(self._owed) > _KEPT:
            self._owed.popleft()
            log.error("what was spent is not recorded: more than %d are waiting", _KEPT)

    async def _work(self) -> None:
        while self._owed:
            await asyncio.sleep(AGAIN)
            try:
                while self._owed:
                    lease, amounts = self._owed[0]
                    await self._settle(lease, amounts)
                    if self._owed and self._owed[0][0] is lease:  # else it was given up meanwhile
                        self._owed.popleft()
            except sqlite3.Error as error:
                log.debug("%d settlements wait for the ledger: %s", len(self._owed), error)
