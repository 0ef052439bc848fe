"""The life of a flight: wait for another process's value, or take the lock, compute, deliver, write back."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from okome.connection import UNAVAILABLE, Clock
from okome.entry import Cached, Entry, instead, of_failure, quieted, usable
from okome.envelope import TOKEN_BYTES, Codec, Envelope, Kind
from okome.errors import ComputeCancelledError, RememberedError, is_callers
from okome.flight import Caller, Flight, Flights, Work
from okome.headers import Status
from okome.keeping import Keeping
from okome.policy import CachePolicy
from okome.store import Newer, Owned, Store, require_wanted
from okome.tasks import Tasks
from okome.tee import Tee
from okome.turns import Turns

log = logging.getLogger(__name__)

_AnyFlight = Flight[Cached[Any]]


class Computations:
    """Those of one cache. `uniform`: for jitter, 0 to 1."""

    def __init__(
        self,
        store: Store,
        flights: Flights,
        policy: CachePolicy,
        clock: Clock,
        tasks: Tasks,
        counts: Counter[str],
        uniform: Callable[[], float],
        keeping: Keeping,
        turns: Turns,
    ) -> None:
        self._store = store
        self._flights = flights
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._counts = counts
        self._uniform = uniform
        self._keeping = keeping
        self._turns = turns

    def launch(
        self, leader: Caller[Cached[Any]], fallback: Entry | None, *, background: bool = False
    ) -> _AnyFlight:
        """`fallback`: what was found, and is of use only should computing fail, if at all."""
        work = leader.work
        tee = Tee(self._policy.max_bytes) if work.streams else None
        flight = self._flights.begin(leader, background=background, tee=tee)
        flight.task = self._tasks.spawn(self._fly(flight, work, fallback))
        return flight

    async def _fly(self, flight: _AnyFlight, work: Work, fallback: Entry | None) -> None:
        try:
            await self._resolve(flight, work, fallback)
        except asyncio.CancelledError:
            # Whoever waits has not been cancelled; if nobody does, the outcome is settled already.
            flight.fail(ComputeCancelledError("the cache was closed"))
            raise
        except BaseException as error:  # delivered to those who wait
            flight.fail(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            if not flight.outcome.done():
                flight.outcome.cancel()
            self._flights.end(work.name, flight)

    async def _resolve(self, flight: _AnyFlight, work: Work, fallback: Entry | None) -> None:
        """Sets the flight's outcome: another's value, or our own."""
        if flight.after is not None:
            await asyncio.wait({flight.after.outcome})
            flight.after = None
        if fallback is not None and fallback.envelope.kind is Kind.PASS:
            return await self._pass(flight)
        self._store.listen()
        token = os.urandom(TOKEN_BYTES)
        seen = fallback.envelope.token if fallback else b""
        waited_until = self._clock.monotonic() + self._policy.max_compute
        waited = False
        while True:
            require_wanted()
            event = self._store.arm(work.name)
            try:
                if self._store.left_alone:
                    return await self._degraded(flight, fallback)
                try:
                    found = await self._store.enter(
                        work.name, work.tags, work.codec, token, seen=seen, force=work.force
                    )
                except UNAVAILABLE as error:
                    self._store.unavailable(error)
                    return await self._degraded(flight, fallback)
                if isinstance(found, Owned):
                    return await self._own(flight, work, fallback, token, found.generations)
                if isinstance(found, Newer):
                    seen = found.token
                    if found.entry is not None:
                        if self._land(flight, found.entry, waited=waited):
                            return None
                        fallback = found.entry
                        if fallback.envelope.kind is Kind.PASS:
                            return await self._pass(flight)
                    continue
                if flight.background and not flight.waiters:
                    return None  # somebody else is at it, and nobody here waits
                if self._clock.monotonic() > waited_until:
                    raise TimeoutError(f"nobody had an answer within {self._policy.max_compute:g} s")
                waited = True
                try:
                    async with asyncio.timeout(self._pause(found.seconds)):
                        await event.wait()
                except TimeoutError:
                    self._counts["polls"] += 1
                else:
                    # Most likely the value is there: one GET, and only if not, the whole way again.
                    entry = await self._store.read(work.name, work.tags, work.codec)
                    if (
                        entry is not None
                        and entry.envelope.token != seen
                        and self._land(flight, entry, waited=True)
                    ):
                        return None
            finally:
                self._store.disarm(work.name, event)

    def _pause(self, lock: float) -> float:
        """How long to wait for a message, in seconds: not past the lock's end, and with jitter."""
        poll = self._policy.poll if self._store.subscribed else min(self._policy.poll, 0.05)
        jitter = 0.5 + self._uniform() / 2
        return min(poll * jitter, lock + 0.02 * jitter)

    def _land(self, flight: _AnyFlight, entry: Entry, *, waited: bool) -> bool:
        """Deliver what another process stored. False if it is of no use."""
        require_wanted()
        if entry.error_type is not None:
            self._counts["negative"] += 1
            flight.fail(RememberedError(entry.error_type))
            return True
        cached = usable(entry, self._clock.now())
        if cached is None:
            return False
        if waited and cached.status is Status.HIT:
            cached = replace(cached, status=Status.COALESCED, stored=True)
        flight.land(cached)
        return True

    # Our own

    async def _own(
        self,
        flight: _AnyFlight,
        work: Work,
        fallback: Entry | None,
        token: bytes,
        generations: dict[str, bytes | None],
    ) -> None:
        """Compute, deliver, write back. The lock is ours, and is given up or used whatever happens."""
        beat = self._tasks.spawn(self._store.keep(work.name, token))
        envelope: Envelope | None = None
        try:
            value, seconds = await self._computed(flight)
            value, envelope = self._keeping.pack(
                flight.leader.work, token, generations, value, seconds, tee=flight.tee
            )
            _deliver(flight, value, envelope)
            if envelope is None:
                self._flights.end(work.name, flight)  # a new caller is not to get what is not kept
        except Exception as error:  # noqa: BLE001  # whatever compute raises is delivered to those who wait
            if not is_callers(error):  # else nobody is left, and whoever comes next computes for himself
                envelope = self._failed(flight, work, fallback, token, error)
        finally:
            beat.cancel()
            # A task of its own: our cancellation must not keep the lock from those who wait for it.
            write = self._tasks.spawn(
                self._store.commit(work.name, envelope)
                if envelope is not None
                else self._store.release(work.name, token)
            )
        await asyncio.shield(write)

    def _failed(
        self, flight: _AnyFlight, work: Work, fallback: Entry | None, token: bytes, error: Exception
    ) -> Envelope | None:
        """Deliver a failure, or the old value instead. Returns what to store, if anything."""
        log.info("computing failed: %s", type(error).__name__)
        now = self._clock.now()
        stale = self._instead(fallback, flight)
        if stale is not None and fallback is not None:
            flight.land(stale)
            return quieted(self._policy, token, now, fallback)
        flight.fail(error)
        if work.force:
            return None  # what is stored may be good: a failure does not take its place
        return of_failure(self._policy, work.codec.name, token, now, error, fallback)

    def _instead(self, fallback: Entry | None, flight: _AnyFlight) -> Cached[Any] | None:
        if flight.tee is not None and flight.tee.begun:
            return None  # the beginning of the new one is out already
        return instead(fallback, self._clock.now())

    async def _computed(self, flight: _AnyFlight) -> tuple[Any, float]:
        """The leader's value, and the seconds it took; of a leader who is told that he may not, the next one's. Raises
        what the computation raises, and CallerError when nobody is left who could lead.
        """
        while True:
            began = self._clock.monotonic()
            try:
                value = await self._turns.timed(flight.compute)
            except Exception as error:
                if not is_callers(error) or not flight.hand_on(error):
                    raise
                self._counts["handed_on"] += 1
            else:
                return value, self._clock.monotonic() - began

    # Computed elsewhere

    async def put(
        self, name: str, codec: Codec[Any], tags: tuple[str, ...], value: Any, seconds: float
    ) -> bool:
        """Store a value, that took so many seconds, over whatever is stored or being computed. False if it is too large
        or Redis did not take it; TypeError for what the codec can't carry.
        """
        work = Work(name, _nothing, codec, tags, force=True)
        try:
            value, body = self._keeping.carry(work, value)
        except Exception as error:  # whatever the codec raises
            raise TypeError(f"value can't be carried by the codec {codec.name}: {error}") from error
        if self._store.left_alone:
            return False
        token = os.urandom(TOKEN_BYTES)
        try:
            owned = await self._store.enter(name, tags, codec, token, force=True)
        except UNAVAILABLE as error:
            self._store.unavailable(error)
            return False
        if not isinstance(owned, Owned):
            raise AssertionError("by force the lock is ours")  # noqa: TRY004  # not a caller's mistake
        self._flights.forget(name)  # what is being computed here is old now
        envelope = self._keeping.envelope(work, token, owned.generations, value, body, seconds)
        if envelope is None:
            raise AssertionError("without keep= all is kept")
        # A task of its own: our cancellation must not keep the lock from those who wait for it.
        commit = self._store.commit(name, envelope, replaces=True)
        return await asyncio.shield(self._tasks.spawn(commit)) and envelope.kind is Kind.VALUE

    # Without the cache, or without Redis

    async def _pass(self, flight: _AnyFlight) -> None:
        """It is known to be too large: nobody waits for anybody."""
        flight.status = Status.BYPASS
        async with self._turns.if_needed():
            value, _ = await self._computed(flight)
        self._land_unstored(flight, value)

    async def _degraded(self, flight: _AnyFlight, fallback: Entry | None) -> None:
        """Compute without Redis: coalesced in this process, and not too many at a time."""
        if flight.background and not flight.waiters:
            return
        flight.status = Status.DEGRADED
        try:
            async with self._turns.one():
                value, _ = await self._computed(flight)
        except Exception:
            stale = self._instead(fallback, flight)
            if stale is None:
                raise
            flight.land(stale)
        else:
            self._land_unstored(flight, value)

    def _land_unstored(self, flight: _AnyFlight, value: Any) -> None:
        value, _ = self._keeping.carried(flight.leader.work, value)
        flight.land(Cached(value, flight.status))


def _deliver(flight: _AnyFlight, value: Any, envelope: Envelope | None) -> None:
    if envelope is not None and envelope.kind is Kind.VALUE:
        flight.land(Cached(value, Status.MISS, ttl=envelope.fresh, stored=True))
    else:
        flight.land(Cached(value, Status.MISS))


async def _nothing() -> None:
    raise AssertionError("a put computes nothing")
