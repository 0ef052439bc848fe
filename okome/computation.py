"""The life of a flight: wait for another process's value, or take the lock, compute, deliver, write back."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from okome.connection import UNAVAILABLE, Clock
from okome.entry import Cached, Entry, instead, of_failure, of_too_large, of_value, quieted, usable
from okome.envelope import TOKEN_BYTES, Codec, Envelope, Kind
from okome.errors import ComputeCancelledError, OverloadedError, RememberedError
from okome.flight import Flight, Flights
from okome.headers import Status
from okome.policy import CachePolicy
from okome.store import Newer, Owned, Store, require_wanted
from okome.tasks import Tasks
from okome.tee import Tee, Unfit

log = logging.getLogger(__name__)

_AnyFlight = Flight[Cached[Any]]


class Work(msgspec.Struct, frozen=True):
    """What is asked for, and how it is computed. `name`: the digest of the key."""

    name: str
    compute: Callable[[], Awaitable[Any]]
    codec: Codec[Any]
    tags: tuple[str, ...]
    force: bool = False
    """Take the lock from whoever has it, look at no value."""
    tee: Tee | None = None


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
    ) -> None:
        self._store = store
        self._flights = flights
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._counts = counts
        self._uniform = uniform
        self._slots = asyncio.Semaphore(policy.degraded_computes)

    def launch(self, work: Work, fallback: Entry | None, *, background: bool = False) -> _AnyFlight:
        """`fallback`: what was found, and is of use only should computing fail, if at all."""
        flight = self._flights.begin(work.name, work.tags, background=background, tee=work.tee)
        flight.task = self._tasks.spawn(self._fly(flight, work, fallback))
        return flight

    async def _fly(self, flight: _AnyFlight, work: Work, fallback: Entry | None) -> None:
        try:
            await self._resolve(flight, work, fallback)
        except asyncio.CancelledError:
            flight.outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # delivered to those who wait
            flight.fail(error)
        finally:
            if not flight.outcome.done():
                flight.outcome.cancel()
            self._flights.end(work.name, flight)

    async def _resolve(self, flight: _AnyFlight, work: Work, fallback: Entry | None) -> None:
        """Sets the flight's outcome: another's value, or our own."""
        if fallback is not None and fallback.envelope.kind is Kind.PASS:
            return await self._pass(flight, work)
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
                    return await self._degraded(flight, work, fallback)
                try:
                    found = await self._store.enter(
                        work.name, work.tags, work.codec, token, seen=seen, force=work.force
                    )
                except UNAVAILABLE as error:
                    self._store.unavailable(error)
                    return await self._degraded(flight, work, fallback)
                if isinstance(found, Owned):
                    return await self._own(flight, work, fallback, token, found.generations)
                if isinstance(found, Newer):
                    seen = found.token
                    if found.entry is not None:
                        if self._land(flight, found.entry, waited=waited):
                            return None
                        fallback = found.entry
                        if fallback.envelope.kind is Kind.PASS:
                            return await self._pass(flight, work)
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
        started = self._clock.monotonic()
        envelope: Envelope | None = None
        try:
            value = await self._timed(work)
            envelope = self.encode(work, token, generations, value, self._clock.monotonic() - started)
            _deliver(flight, value, envelope)
            if value is Unfit.CUT_SHORT:
                self._flights.end(work.name, flight)  # a new caller is not to get what was cut short
        except Exception as error:  # noqa: BLE001  # whatever compute raises is delivered to those who wait
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
        stale = self._instead(fallback, work)
        if stale is not None and fallback is not None:
            flight.land(stale)
            return quieted(self._policy, token, now, fallback)
        flight.fail(error)
        if work.force:
            return None  # what is stored may be good: a failure does not take its place
        return of_failure(self._policy, work.codec.name, token, now, error, fallback)

    def _instead(self, fallback: Entry | None, work: Work) -> Cached[Any] | None:
        if work.tee is not None and work.tee.begun:
            return None  # the beginning of the new one is out already
        return instead(fallback, self._clock.now())

    def encode(
        self, work: Work, token: bytes, generations: dict[str, bytes | None], value: Any, compute: float
    ) -> Envelope | None:
        """What to store: the value; that it is too large; or (None) nothing."""
        if value is Unfit.CUT_SHORT:
            self._counts["cut_short"] += 1
            return None
        now, codec = self._clock.now(), work.codec
        if value is Unfit.TOO_LARGE:
            envelope = of_too_large(self._policy, codec.name, token, now)
        else:
            try:
                body = codec.encode(value)
            except Exception:
                self._counts["unencodable"] += 1
                log.exception("a value could not be encoded, and was not stored")
                return None
            tags = {tag: generation for tag, generation in generations.items() if generation is not None}
            envelope = of_value(self._policy, codec.name, token, now, body, compute, tags)
        if envelope.kind is Kind.PASS:
            self._counts["oversize"] += 1
        return envelope

    async def _timed(self, work: Work) -> Any:
        self._counts["computes"] += 1
        try:
            async with asyncio.timeout(self._policy.max_compute):
                return await work.compute()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ComputeCancelledError("the computation was cancelled from within") from None

    # Without the cache, or without Redis

    async def _pass(self, flight: _AnyFlight, work: Work) -> None:
        """It is known to be too large: nobody waits for anybody."""
        flight.status = Status.BYPASS
        flight.land(Cached(await self.uncached(work), Status.BYPASS))

    async def _degraded(self, flight: _AnyFlight, work: Work, fallback: Entry | None) -> None:
        """Compute without Redis: coalesced in this process, and not too many at a time."""
        if flight.background and not flight.waiters:
            return
        flight.status = Status.DEGRADED
        try:
            async with self._slot():
                value = await self._timed(work)
        except Exception:
            stale = self._instead(fallback, work)
            if stale is None:
                raise
            flight.land(stale)
        else:
            flight.land(Cached(value, Status.DEGRADED))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the computations that may be under way while Redis is gone. Raises OverloadedError."""
        try:
            async with asyncio.timeout(self._policy.degraded_wait):
                await self._slots.acquire()
        except TimeoutError:
            raise OverloadedError("Redis is gone and too many computations are under way") from None
        try:
            yield
        finally:
            self._slots.release()

    async def uncached(self, work: Work) -> Any:
        """Compute what is not to be stored."""
        if not self._store.gone:
            return await self._timed(work)
        async with self._slot():
            return await self._timed(work)

    def uncached_stream(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Likewise."""
        return self._limited(source) if self._store.gone else source

    async def _limited(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async with self._slot():
                async for chunk in source:
                    yield chunk
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()


def _deliver(flight: _AnyFlight, value: Any, envelope: Envelope | None) -> None:
    if envelope is not None and envelope.kind is Kind.VALUE:
        flight.land(Cached(value, Status.MISS, ttl=envelope.fresh, stored=True))
    else:
        flight.land(Cached(value, Status.MISS))
