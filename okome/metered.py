"""Cache and budgets together: whoever computes pays, and nobody else.

    async def ask(spent: Counter[str]) -> Answer:
        answer = await gpu(request)
        spent["tokens"] = answer.tokens
        return answer

    metered = Metered(budgets, {"user": "ann", "model": "rice-7b"}, {"requests": 1, "tokens": 900})
    cached = await cache.get_or_compute(key, metered.compute(ask))
    return Response(cached.value, headers=cached.headers() | metered.headers())

To reserve before the cache is asked would charge for hits; a refusal that leaves a computation as any other error would
reach all who wait for the same key. Here it is inside, and a CallerError.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from okome.arguments import begun, opened, require_function
from okome.budget import Budgets
from okome.decision import Decision, Lease, Outcome
from okome.errors import CallerError

log = logging.getLogger(__name__)

T = TypeVar("T")


class OverBudgetError(CallerError):
    """The budgets said no, or could not say yes: `decision` has the status code and the headers to answer with."""

    def __init__(self, decision: Decision) -> None:
        if not isinstance(decision, Decision):
            raise TypeError(f"decision is what Budgets.reserve said, not {decision!r}")
        said = "over budget" if decision.outcome is Outcome.DENIED else "the budget's state is not known"
        why = decision.reason or decision.rule
        super().__init__(said if why is None else f"{said}: {why}")
        self.decision = decision


class Metered:
    """One caller's request: who pays, and the estimate. Both as for Budgets.reserve, which it raises ValueError like.

    Give its `compute` or its `stream` to the cache. What runs then is reserved first, and settled by what it says in
    `spent`, {unit: amount}, as far as it got:

    - it returned, or was given up (nobody waits any more, the stream was closed): what it spent; a unit that it did not
      name costs what was reserved. So name it early: spent["tokens"] = 0, and count on from there.
    - it raised: what it spent; a unit that it did not name costs nothing.

    What can't have been spent (less than nothing, of a unit that was not reserved) is a ValueError and costs the
    estimate; logged, where the computation has raised, or was given up, already.

    Hits are free, and so is waiting for another's computation.
    """

    def __init__(self, budgets: Budgets, subject: Mapping[str, str], amounts: Mapping[str, int]) -> None:
        if not isinstance(budgets, Budgets):
            raise TypeError(f"budgets are Budgets, not {budgets!r}")
        budgets.require(subject, amounts)
        self._budgets = budgets
        self._subject = subject
        self._amounts = amounts
        self.decision: Decision | None = None
        """What the budgets said; None if they were not asked: a hit, or another's computation."""

    def headers(self) -> dict[str, str]:
        """Those of the decision, if there was one."""
        return {} if self.decision is None else self.decision.headers()

    def compute(self, ask: Callable[[Counter[str]], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """For Cache.get_or_compute. Raises OverBudgetError, to this caller alone."""
        require_function("ask", ask, "an async function of what is spent")

        async def computed() -> T:
            async with self._paid() as spent:
                return await begun("ask", ask, spent)

        return computed

    def stream(
        self, produce: Callable[[Counter[str]], AsyncIterator[bytes]]
    ) -> Callable[[], AsyncIterator[bytes]]:
        """For Cache.stream. OverBudgetError comes before the first chunk, to this caller alone."""
        require_function("produce", produce, "an async generator's function of what is spent")

        async def produced() -> AsyncIterator[bytes]:
            async with self._paid() as spent:
                chunks = opened("produce", produce, spent)
                try:
                    async for chunk in chunks:
                        yield chunk
                finally:  # before it is settled: it may have more to say
                    close = getattr(chunks, "aclose", None)
                    if close is not None:
                        await close()

        return produced

    @asynccontextmanager
    async def _paid(self) -> AsyncIterator[Counter[str]]:
        lease = await self._admitted()
        spent: Counter[str] = Counter()
        try:
            yield spent
        except Exception:
            self._settle_after_all(lease, dict.fromkeys(self._amounts, 0) | dict(spent))
            raise
        except BaseException:  # cancelled, or closed
            self._settle_after_all(lease, spent)
            raise
        self._settle(lease, spent)

    async def _admitted(self) -> Lease:
        """Reserved and started."""
        self.decision = await self._budgets.reserve(self._subject, self._amounts)
        lease = self.decision.lease
        if lease is None:
            raise OverBudgetError(self.decision)
        nothing = dict.fromkeys(self._amounts, 0)
        try:
            started = await self._budgets.start(lease)
        except BaseException:  # the caller hung up meanwhile
            self._budgets.commit_soon(lease, nothing)
            raise
        if not started:
            trouble = self._budgets.ledger_trouble
            if trouble is None:  # else the ledger knows nothing of it, nor would it take this
                self._budgets.commit_soon(lease, nothing)
            self.decision = Decision(Outcome.UNAVAILABLE, retry_after=1.0, reason=trouble)
            raise OverBudgetError(self.decision)
        return lease

    def _settle_after_all(self, lease: Lease, spent: Mapping[str, int]) -> None:
        """What ended the computation is what its caller is told."""
        try:
            self._settle(lease, spent)
        except ValueError:
            log.exception("what was spent can't be: the estimate is charged")

    def _settle(self, lease: Lease, spent: Mapping[str, int]) -> None:
        try:
            self._budgets.commit_soon(lease, spent)
        except ValueError:  # what it says it spent can't be: then it is the estimate
            self._budgets.commit_soon(lease)
            raise
