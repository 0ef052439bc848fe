"""Coalescing inside one process: many callers, one computation, and what befalls one of them hurts no other.

The computation is the leader's. If he is told that he may not, the next one leads, with his own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar
from weakref import ref

import msgspec

from okome.arguments import begun
from okome.envelope import Codec
from okome.errors import CircularError, ComputeCancelledError
from okome.headers import Status
from okome.keys import digest
from okome.tee import Tee

T = TypeVar("T")

_COMPUTING: ContextVar["Callable[[], Flight[Any] | None]"] = ContextVar("okome_computing")
"""The flight whose computation this is, in tasks that it starts as well, which may outlive it."""


class Work(msgspec.Struct, frozen=True):
    """What is asked for, and how it is computed. `name`: the digest of the key."""

    name: str
    compute: Callable[..., Awaitable[Any]]
    """Called with the flight's tee, if it is a stream's, and with nothing otherwise."""
    codec: Codec[Any]
    tags: tuple[str, ...]
    force: bool = False
    """Take the lock from whoever has it, look at no value."""
    streams: bool = False
    keep: Callable[[Any], bool | float] | None = None
    """Whether, or for how many seconds, a value is fresh; None: all are, as the policy says."""


class Caller(Generic[T]):
    """One who asks: what for, in which context, and what he is told: the outcome; None, that his stream has begun; or
    that he may not.
    """

    __slots__ = ("context", "told", "within", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.context = copy_context()
        self.within = computing()
        """The flight whose computation it is that asks."""
        self.told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Flight(Generic[T]):
    """One computation under way and those who wait for it. `outcome` is set before it is written back."""

    def __init__(
        self,
        leader: Caller[T],
        registry: "Flights",
        *,
        background: bool = False,
        tee: Tee | None = None,
        after: "Flight[T] | None" = None,
    ) -> None:
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(lambda _: self._tell_all())
        self.status = Status.MISS
        """How the value is being computed; known before the value is, which a stream's headers need."""
        self.name = leader.work.name
        self.tags = frozenset(digest(tag) for tag in leader.work.tags)
        """Their digests."""
        self.force = leader.work.force
        self.leader = leader
        """Whose computation it is, though he may have left."""
        self.level: int = 0 if leader.within is None else leader.within.level + 1
        """How many computations it is inside of."""
        self.callers: dict[Caller[T], None] = {}
        """Those who wait, in the order in which they came."""
        self.registry = registry
        self.background = background
        self.tee = tee
        self.after = after
        """Computes only when that one has ended."""
        self.computation: asyncio.Task[Any] | None = None
        """The latest."""
        self.task: asyncio.Task[None] | None = None
        if tee is not None:
            tee.first.add_done_callback(lambda _: self._tell_all())

    @property
    def waiters(self) -> int:
        return len(self.callers)

    def enter(self, caller: Caller[T]) -> None:
        self.callers[caller] = None
        self._tell(caller)

    def leave(self, caller: Caller[T]) -> None:
        """The last one to leave stops the work."""
        self.callers.pop(caller, None)
        self.stop_unless_wanted()

    def stop_unless_wanted(self) -> None:
        """Cancel it if it is not done or about to be, nobody waits, nobody is on the way here, and it was begun for a
        caller.
        """
        if self.callers or self.background or self.outcome.done() or self.task is None:
            return
        if self.registry.expect(self) or (self.computation is not None and self.computation.done()):
            return
        self.outcome.cancel()
        self.task.cancel()

    async def join(self, caller: Caller[T]) -> Any:
        """For one who has entered; leaves at the end. Its cancellation is its own."""
        try:
            if caller.told.done():
                await asyncio.sleep(
                    0
                )  # who asks in a loop must not keep what is asked for from being written back
            return await caller.told
        finally:
            self.leave(caller)

    def compute(self) -> asyncio.Task[Any]:
        """Begins the leader's computation, in his context."""
        leader = self.leader
        leader.context.run(_COMPUTING.set, ref(self))
        self.computation = asyncio.create_task(_compute(leader.work, self.tee), context=leader.context)
        return self.computation

    def hand_on(self, error: Exception) -> bool:
        """The leader is told, and the next one leads. False if nobody is left who could: then it has failed."""
        refused = self.leader
        if self.tee is not None and self.tee.begun:
            self.fail(error)  # what is out can't be computed again
            return False
        if refused in self.callers:
            del self.callers[refused]
            _raise_in(refused.told, error)
        if not self.callers:
            self.fail(error)
            return False
        self.leader = next(iter(self.callers))
        return True

    def land(self, result: T) -> None:
        """Deliver; nobody waits any more for what was abandoned or is over already."""
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Likewise."""
        if not self.outcome.done():
            _raise_in(self.outcome, error)

    @property
    def over(self) -> bool:
        """Abandoned or failed: nobody should join it any more."""
        return self.outcome.done() and (self.outcome.cancelled() or self.outcome.exception() is not None)

    def _tell_all(self) -> None:
        for caller in self.callers:
            self._tell(caller)

    def _tell(self, caller: Caller[T]) -> None:
        """What there is to be told by now, if anything is."""
        told, outcome = caller.told, self.outcome
        if told.done():
            return
        if self.tee is not None and self.tee.begun:
            told.set_result(None)
        elif outcome.cancelled():
            told.cancel()
        elif outcome.done():
            error = outcome.exception()
            if error is None:
                told.set_result(outcome.result())
            else:
                _raise_in(told, error)


class Flights(dict[str, Flight[Any]]):
    """Those under way in this process, by name; whoever asks for that name may join."""

    def __init__(self) -> None:
        super().__init__()
        self.place: object = self
        """Where the locks lie: of one Cache, or of all those over the same namespace of the same Redis."""
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

    def expect(self, flight: Flight[Any]) -> bool:
        """Whether a caller is on its way there: still looking into Redis, and certain to join if it finds nothing.
        Nobody is to one that was forgotten or replaced.
        """
        return flight.name in self._looking and self.get(flight.name) is flight

    def joinable(self, name: str) -> Flight[Any] | None:
        flight = self.get(name)
        return None if flight is None or flight.over else flight

    def renewing(self, name: str) -> Flight[Any] | None:
        """One that computes anew and has not begun to: its value will be newer than the question of who comes now."""
        flight = self.joinable(name)
        return flight if flight is not None and flight.force and flight.computation is None else None

    def begin(self, leader: Caller[Any], *, background: bool = False, tee: Tee | None = None) -> Flight[Any]:
        """In place of the one there was. If both compute anew it waits for that one to end: who comes meanwhile
        can join it.
        """
        name = leader.work.name
        current = self.joinable(name)
        after = current if leader.work.force and current is not None and current.force else None
        flight: Flight[Any] = Flight(leader, self, background=background, tee=tee, after=after)
        self.forget(name)
        self[name] = flight
        return flight

    def require_outside(self, name: str) -> None:
        """Raise CircularError where who asks computes that very name, or what it waits for."""
        asking, seen = [computing()], set[Flight[Any]]()
        while asking:
            flight = asking.pop()
            if flight is None or flight in seen or flight.outcome.done():
                continue
            if flight.name == name and flight.registry.place == self.place:
                raise CircularError(
                    "a key was asked for inside its own computation, which would wait for itself"
                )
            seen.add(flight)
            asking += [caller.within for caller in flight.callers]

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

    def close(self) -> None:
        """What is not done fails and is cancelled."""
        for flight in list(self.values()):
            if flight.task is not None and not flight.outcome.done():
                flight.fail(ComputeCancelledError("the cache was closed"))
                flight.task.cancel()


def computing() -> Flight[Any] | None:
    """The flight whose computation it is that is running."""
    return _COMPUTING.get(_nothing)()


def _nothing() -> None:
    return None


async def _compute(work: Work, tee: Tee | None) -> Any:
    return await (begun("compute", work.compute) if tee is None else work.compute(tee))


def _raise_in(future: "asyncio.Future[Any]", error: BaseException) -> None:
    """A failure that nobody is left to receive is no news for the event loop's log."""
    future.set_exception(error)
    future.exception()
