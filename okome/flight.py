"""Coalescing inside one process: many callers, one computation, and nobody's cancellation hurts another."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

from okome.headers import Status
from okome.keys import digest
from okome.tee import Tee

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
        """Their digests."""
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


class Flights(dict[str, Flight[Any]]):
    """Those under way in this process, by name; whoever asks for that name may join."""

    def __init__(self) -> None:
        super().__init__()
        self._looking: dict[str, int] = {}  # callers per name between their call and their flight

    def look(self, name: str) -> Flight[Any] | None:
        """A caller comes who will join the flight of that name, which is returned, unless Redis has an answer.
        Until `looked`.
        """
        looking = self._looking
        looking[name] = looking.get(name, 0) + 1
        return self.joinable(name) if name in self else None

    def looked(self, name: str) -> None:
        others = self._looking[name] - 1
        if others:
            self._looking[name] = others
            return
        del self._looking[name]
        if name in self:
            self[name].stop_unless_wanted()

    def joinable(self, name: str) -> Flight[Any] | None:
        flight = self.get(name)
        return None if flight is None or flight.over else flight

    def begin(
        self, name: str, tags: Collection[str], *, background: bool = False, tee: Tee | None = None
    ) -> Flight[Any]:
        """In place of the one there was."""
        flight: Flight[Any] = Flight(
            [digest(tag) for tag in tags],
            # Who is looking joins the flight of that name, not one that was forgotten or replaced.
            lambda flight: name in self._looking and self.get(name) is flight,
            background=background,
            tee=tee,
        )
        self.forget(name)
        self[name] = flight
        return flight

    def end(self, name: str, flight: Flight[Any]) -> None:
        """Nobody joins it any more."""
        if self.get(name) is flight:
            del self[name]

    def forget(self, name: str) -> None:
        """Who comes from now on does not join what began before; who waits already still gets that."""
        flight = self.pop(name, None)
        if flight is not None:
            flight.stop_unless_wanted()

    def forget_tag(self, tag: str) -> None:
        """Every flight with this tag, by its digest."""
        for name in [name for name, flight in self.items() if tag in flight.tags]:
            self.forget(name)


def _seen(outcome: "asyncio.Future[T]") -> None:
    """A failure that nobody is left to receive is no news for the event loop's log."""
    if not outcome.cancelled():
        outcome.exception()
