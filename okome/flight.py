"""Coalescing inside one process: many callers, one computation, and nobody's cancellation hurts another."""

import asyncio
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from okome.headers import Status
from okome.stream import Tee

T = TypeVar("T")


class Flight(Generic[T]):
    """One computation under way and those who wait for it. `outcome` is set before it is written back."""

    def __init__(
        self,
        tags: Collection[str],
        expected: Callable[["Flight[T]"], bool],
        *,
        background: bool = False,
        tee: Tee | None = None,
    ) -> None:
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(_seen)
        self.status = Status.MISS
        """How the value is being computed; known before the value is, which a stream's headers need."""
        self.tags = frozenset(tags)
        self.expected = expected
        """Whether a caller is on its way: still looking into Redis, and certain to join if it finds nothing.
        """
        self.background = background
        self.tee = tee
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None
        if tee is not None:
            self.outcome.add_done_callback(lambda _: tee.nudge())

    def enter(self) -> None:
        self.waiters += 1

    def leave(self) -> None:
        """The last one to leave stops the work."""
        self.waiters -= 1
        self.stop_unless_wanted()

    def stop_unless_wanted(self) -> None:
        """Cancel it if it is not done, nobody waits, nobody is on the way here, and it was begun for a
        caller.
        """
        if self.waiters or self.background or self.outcome.done() or self.task is None or self.expected(self):
            return
        self.outcome.cancel()
        self.task.cancel()

    async def join(self) -> T:
        """For one who has entered; leaves at the end. Its cancellation is its own."""
        try:
            return await asyncio.shield(self.outcome)
        finally:
            self.leave()

    def land(self, result: T) -> None:
        """Deliver; nobody waits any more for what was abandoned or is over already."""
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, error: Exception) -> None:
        """Likewise."""
        if not self.outcome.done():
            self.outcome.set_exception(error)

    @property
    def over(self) -> bool:
        """Abandoned or failed: nobody should join it any more."""
        return self.outcome.done() and (self.outcome.cancelled() or self.outcome.exception() is not None)


def _seen(outcome: "asyncio.Future[T]") -> None:
    """A failure that nobody is left to receive is no news for the event loop's log."""
    if not outcome.cancelled():
        outcome.exception()
