"""The cache the orchestrator puts in front of the GPU: one computation per key, whatever happens around it.

    async with Cache(connect(url), namespace="answers", codec=Msgpack(Answer)) as cache:
        cached = await cache.get_or_compute(key_of(request, tenant="acme"), lambda: ask_gpu(request))
        return Response(cached.value, headers=cached.headers())

A hit is one GET. A miss is one script that reads again or takes the lock. The owner of the lock keeps it
alive by a heartbeat, delivers to its callers first and writes back afterwards, and only if the lock is still
its own. All others wait, in this process on the same computation, in others for a message and, because
messages get lost, by polling. Without Redis everything is still computed, once per process and key, a limited
number at a time.
"""

import asyncio
import logging
import math
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, Self, TypeVar

import msgspec
from msgspec.structs import replace

from okome import scripts
from okome.connection import UNAVAILABLE, Breaker, Clock, Line, Script, is_refusal, require_bytes
from okome.envelope import MAX_BYTES, TOKEN_AT, TOKEN_BYTES, Codec, Envelope, Kind, Msgpack, unpack
from okome.errors import ComputeCancelledError, NotCachedError, OverloadedError, RememberedError
from okome.flight import Flight
from okome.headers import Directives, Status, cache_headers
from okome.keys import Keyspace, digest
from okome.reader import Reader
from okome.stream import CachedStream, Tee
from okome.wake import Wakes

T = TypeVar("T")

log = logging.getLogger(__name__)

_IN_THREAD = 256 * 1024  # bytes above which packing leaves the event loop alone
_CHUNKS: Msgpack[tuple[bytes, ...]] = Msgpack(tuple[bytes, ...])
_NO_DIRECTIVES = Directives()
_NO_TAGS: dict[str, bytes | None] = {}
_TOKEN = slice(TOKEN_AT, TOKEN_AT + TOKEN_BYTES)
_NAMES = 4096  # of keys whose digests are kept
_LONGEST_DRAW = 37.0  # -log of the smallest 1 - uniform() there is, 2^-53, rounded up
_PASS_FOR = 60.0  # s for which a key is known to be too large
_VALUE, _HIT = Kind.VALUE, Status.HIT  # to look up a member costs an enum as much as decoding does a value
_COUNTED = {status: status.value.lower() for status in Status}
_OVERSIZE, _UNFIT = object(), object()  # in place of a stream that grew too large, that is not complete


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long things last, in seconds, and how much is allowed."""

    fresh: float = 300.0
    """A value is served as it is."""
    stale: float = 60.0
    """After that: served, while a new one is computed (stale-while-revalidate, RFC 5861)."""
    stale_if_error: float = 3600.0
    """Counted from the end of `fresh`: served when computing a new one failed."""
    negative: float = 2.0
    """A failure is remembered: no new attempt until then."""
    negative_errors: tuple[type[Exception], ...] = ()
    """The errors worth remembering where there is no old value to serve. Cancellation never is."""
    lock_ttl: float = 5.0
    """A dead owner is replaced after this. Says nothing about how long a computation may take: the heartbeat,
    every third of it, keeps the lock."""
    max_compute: float = 600.0
    """A computation is cancelled (TimeoutError) after this, and nobody waits longer for another process's."""
    poll: float = 1.0
    """Waiters look for themselves this often, should a wake-up get lost."""
    beta: float = 1.0
    """XFetch: above 1 recomputes earlier, 0 never before the end of `fresh` (Vattani et al., 2015)."""
    max_bytes: int = MAX_BYTES
    """Encoded; what is larger is passed through and counted."""
    degraded_computes: int = 8
    """Computations at the same time while Redis is gone, those that are not to be cached included."""
    degraded_wait: float = 5.0
    """How long one waits for its turn then: OverloadedError."""
    redis_timeout: float = 1.0
    """For each call to Redis."""
    write_timeout: float = 1.0
    """For each write-back; its value has been delivered before."""
    breaker: float = 1.0
    """After a failed call, how long Redis is left alone."""

    def __post_init__(self) -> None:
        for name in ("fresh", "lock_ttl", "max_compute", "poll", "redis_timeout", "write_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a positive number of seconds, not {getattr(self, name)}")
        for name in ("stale", "stale_if_error", "negative", "beta", "degraded_wait", "breaker"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is not negative: {getattr(self, name)}")
        if not 0 < self.max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes is 1 to {MAX_BYTES}, not {self.max_bytes}")
        if self.degraded_computes < 1:
            raise ValueError("degraded_computes is at least 1")


class Cached(msgspec.Struct, Generic[T], frozen=True):
    """A value and where it came from. `age`: seconds since it was computed; `ttl`: until it is stale, may be
    < 0.

    Callers that were coalesced share the very same object: don't change it.
    """

    value: T
    status: Status
    age: float = 0.0
    ttl: float = 0.0
    stored: bool = False

    def headers(self) -> dict[str, str]:
        """X-OKOME-Cache, Cache-Status and Age."""
        return cache_headers(self.status, age=self.age, ttl=self.ttl, stored=self.stored)


class _Entry(msgspec.Struct, frozen=True):
    """An envelope that may be used, with its decoded value (None for an error or a pass)."""

    envelope: Envelope
    value: Any


class _Work(msgspec.Struct, frozen=True):
    """What a flight computes and how: the part that get_or_compute and stream have in common."""

    name: str  # digest of the key
    compute: Callable[[], Awaitable[Any]]
    codec: Codec[Any]
    tags: tuple[str, ...]
    force: bool = False  # take the lock from whoever has it, look at no value
    tee: Tee | None = None


_AnyFlight = Flight[Cached[Any]]


class Cache(Generic[T]):
    """Values of one type under one namespace. Use as an async context manager, or call aclose() at the end.

    `counts` tells what happened, by name; every name is in the table of docs/03_PLANNER.md.
    """

    def __init__(
        self,
        redis: Any,
        *,
        namespace: str,
        codec: Codec[T],
        policy: CachePolicy | None = None,
        clock: Clock | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        require_bytes(redis)
        self.policy = policy or CachePolicy()
        self.counts: Counter[str] = Counter()
        self._codec = codec
        self._key = Keyspace("c", namespace)
        self._reach = self.policy.beta * _LONGEST_DRAW
        self._value_key = lru_cache(_NAMES)(partial(self._key, "v"))
        self._channel = self._key("wake")
        self._clock = clock or Clock()
        self._uniform = uniform
        self._line = Line(redis)
        self._reader = Reader(self._line, self._line.limit(self.policy.redis_timeout))
        self._wakes = Wakes(redis, self._channel, self._heard)
        self._flights: dict[str, _AnyFlight] = {}
        self._looking: dict[str, int] = {}  # callers per name between their call and their flight
        self._tasks: set[asyncio.Task[Any]] = set()
        self._degraded_slots = asyncio.Semaphore(self.policy.degraded_computes)
        self._breaker = Breaker(self.policy.breaker, self._clock.monotonic)
        life = (
            self.policy.fresh + max(self.policy.stale, self.policy.stale_if_error) + self.policy.max_compute
        )
        self._tag_ttl = _ms(
            2 * life
        )  # a tag outlives every entry that hangs on it; without it they are misses

    async def __aenter__(self) -> Self:
        """Subscribes first, so that the first miss is woken as fast as all others."""
        self._wakes.start()
        try:
            async with asyncio.timeout(self.policy.redis_timeout):
                await self._clock.sync(self._line, self.policy.redis_timeout)
                await self._wakes.up.wait()
        except UNAVAILABLE as error:
            self._unavailable(error)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Lets write-backs finish within their deadline, cancels computations, ends the subscription."""
        for flight in list(self._flights.values()):
            if flight.task is not None and not flight.outcome.done():
                flight.fail(ComputeCancelledError("the cache was closed"))
                flight.task.cancel()
        for _ in range(3):  # a computation may swallow a cancellation, but not hold us up for ever
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=2 * self.policy.write_timeout)
                for task in self._tasks:
                    task.cancel()
        await self._wakes.aclose()
        await self._line.aclose()

    @property
    def available(self) -> bool:
        """Whether Redis was there when last heard of."""
        return self._wakes.up.is_set() and not self._breaker.open

    # What callers ask for

    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[T]],
        *,
        tags: Collection[str] = (),
        directives: Directives = _NO_DIRECTIVES,
    ) -> Cached[T]:
        """The cached value, or compute()'s, which runs at most once at a time for all processes.

        Raises what compute raises; RememberedError, NotCachedError, OverloadedError, ComputeCancelledError;
        and TimeoutError after policy.max_compute. Never an error of Redis.
        """
        _require_answerable(directives)
        work = _Work(_value_name(key), compute, self._codec, tuple(tags), directives.no_cache)
        if directives.no_store:
            return self._count(Cached(await self._uncached(work), Status.BYPASS))
        found = await self._lookup(work, directives)
        if isinstance(found, Cached):
            return found
        flight, leads = found
        return self._count(_shared(await flight.join(), leads=leads))

    async def stream(
        self,
        key: str,
        produce: Callable[[], AsyncIterator[bytes]],
        *,
        complete: Callable[[Sequence[bytes]], bool],
        tags: Collection[str] = (),
        directives: Directives = _NO_DIRECTIVES,
    ) -> CachedStream:
        """The chunks of produce(), forwarded as they come and stored at the end, or replayed chunk by chunk.

        Callers of this process share one stream; other processes wait for its end and replay it. A stream
        that raises, is abandoned by its last reader, or of whose chunks `complete` says no, is never stored.

        `complete` looks for the mark that only a whole stream ends with, such as the last event of SSE: a source
        that breaks off often just ends, without an error. So there is no default that would be safe.
        """
        _require_answerable(directives)
        tee = Tee(self.policy.max_bytes)

        async def pump() -> object:
            await tee.pump(produce())
            if tee.overflowed:
                return _OVERSIZE
            return tee.chunks if complete(tee.chunks) else _UNFIT

        work = _Work(_stream_name(key), pump, _CHUNKS, tuple(tags), directives.no_cache, tee)
        if directives.no_store:
            return await self._bypass(produce)
        found = await self._lookup(work, directives)
        if isinstance(found, Cached):
            return CachedStream.replay(found.value, found.headers())
        flight, leads = found
        if flight.tee is None or flight.tee.overflowed:
            flight.leave()
            return await self._bypass(produce)
        place = flight.tee.join()
        try:
            while not flight.tee.begun and not flight.outcome.done():
                await flight.tee.changed()
            if flight.tee.begun:
                kept = flight.status is Status.MISS
                cached = Cached((), flight.status, ttl=self.policy.fresh if kept else 0.0, stored=kept)
                headers = self._count(_shared(cached, leads=leads)).headers()
                leave = partial(_leave, flight, flight.tee, place)
                return CachedStream(_read(flight.tee, place, leave), headers, leave)
            # Another process computed it, or it failed before its first chunk, or it has none.
            cached = self._count(_shared(await asyncio.shield(flight.outcome), leads=leads))
        except BaseException:
            flight.tee.part(place)
            flight.leave()
            raise
        flight.tee.part(place)
        flight.leave()
        return CachedStream.replay(() if cached.value is _UNFIT else cached.value, cached.headers())

    async def _bypass(self, produce: Callable[[], AsyncIterator[bytes]]) -> CachedStream:
        cached = Cached((), Status.BYPASS)
        chunks = self._limited(produce()) if self._gone else produce()
        stream = await CachedStream.begin(chunks, cached.headers())
        self._count(cached)
        return stream

    async def get(self, key: str, *, tags: Collection[str] = ()) -> Cached[T] | None:
        """What is stored and still fresh or stale, or None. Never computes, never raises for Redis."""
        entry = await self._read(_value_name(key), tuple(tags), self._codec)
        if entry is None or entry.envelope.kind is not Kind.VALUE:
            return None
        cached = _classify(entry, self._clock.now())
        return None if cached is None else self._count(cached)

    async def put(self, key: str, value: T, *, tags: Collection[str] = (), compute: float = 0.0) -> bool:
        """Store a value that was computed elsewhere, in `compute` seconds; whoever computes it now won't
        overwrite it. False if it is too large or Redis did not take it.
        """
        work = _Work(_value_name(key), _nothing, self._codec, tuple(tags), force=True)
        token = os.urandom(TOKEN_BYTES)
        try:
            _, _, generations = await self._enter(work, token, b"")
        except UNAVAILABLE as error:
            self._unavailable(error)
            return False
        self._forget(work.name)  # what is being computed here is old now
        envelope = await self._encode(work, token, generations, value, compute)
        # A task of its own: our cancellation must not keep the lock from those who wait for it.
        if envelope is None:
            await asyncio.shield(self._spawn(self._release(work, token)))
            return False
        stored = await asyncio.shield(self._spawn(self._commit(work, envelope, b"i")))
        return stored and envelope.kind is Kind.VALUE

    async def invalidate(self, key: str) -> bool:
        """Forget the key: what is being computed for it now will not be stored. False if Redis could not be
        told.
        """
        names = (_value_name(key), _stream_name(key))
        for name in names:
            self._forget(name)
        keys = [self._key(kind, name) for name in names for kind in ("v", "l")]
        return await self._tell(
            scripts.INVALIDATE, keys, self._channel, *(b"i" + name.encode() for name in names)
        )

    async def invalidate_tag(self, tag: str) -> bool:
        """Forget every entry with this tag, stored or being computed. False if Redis could not be told."""
        self._forget_tag(digest(tag))
        message = b"t" + digest(tag).encode()
        keys = [self._key("t", digest(tag))]
        return await self._tell(
            scripts.INVALIDATE_TAG, keys, os.urandom(8), self._tag_ttl, self._channel, message
        )

    async def _tell(self, script: Script, keys: list[str], *arguments: str | bytes | int) -> bool:
        try:
            async with asyncio.timeout(self.policy.redis_timeout):
                await script(self._line, keys, *arguments)
        except UNAVAILABLE as error:
            self._unavailable(error)
            return False
        return True

    # Hearing what other processes did

    def _heard(self, message: bytes) -> None:
        kind, name = message[:1], message[1:].decode(errors="replace")
        if kind == b"i":
            self._forget(name)
        elif kind == b"t":
            self._forget_tag(name)

    def _forget(self, name: str) -> None:
        """Who comes from now on does not join what began before; who waits already still gets that."""
        flight = self._flights.pop(name, None)
        if flight is not None:
            flight.stop_unless_wanted()

    def _forget_tag(self, tag: str) -> None:
        for name in [name for name, flight in self._flights.items() if tag in flight.tags]:
            self._forget(name)

    # Reading

    async def _lookup(self, work: _Work, directives: Directives) -> Cached[Any] | tuple[_AnyFlight, bool]:
        """A value that can be served at once, or the flight, entered, and whether this caller leads it."""
        looking, name = self._looking, work.name
        looking[name] = looking.get(name, 0) + 1
        try:
            flight = self._joinable(name)
            fallback = None
            if work.force:
                flight = None
            elif flight is None or flight.background or directives.only_if_cached:
                entry = await self._read(name, work.tags, work.codec)
                if entry is not None:
                    now = self._clock.now()
                    cached = _classify(entry, now)
                    if cached is not None:
                        if cached.ttl <= entry.envelope.compute * self._reach and self._due(
                            entry, cached, now
                        ):
                            self._refresh(work, entry)
                        return self._count(cached)
                    if entry.envelope.kind is Kind.ERROR:
                        self.counts["negative"] += 1
                        raise RememberedError(_text(entry.envelope.body))
                    fallback = entry
                if directives.only_if_cached:
                    raise NotCachedError("only-if-cached, and it is not")
                flight = self._joinable(name)
            leads = flight is None
            if flight is None:
                flight = self._flight(work)
                self._launch(flight, work, fallback)
            flight.enter()
            return flight, leads
        finally:
            looking[name] -= 1
            if not looking[name]:
                del looking[name]
                if name in self._flights:
                    self._flights[name].stop_unless_wanted()

    def _joinable(self, name: str) -> _AnyFlight | None:
        flight = self._flights.get(name)
        return None if flight is None or flight.over else flight

    def _flight(self, work: _Work, *, background: bool = False) -> _AnyFlight:
        return Flight(
            [digest(tag) for tag in work.tags],
            # Who is looking joins the flight of that name, not one that was forgotten or replaced.
            lambda flight: work.name in self._looking and self._flights.get(work.name) is flight,
            background=background,
            tee=work.tee,
        )

    async def _read(self, name: str, tags: tuple[str, ...], codec: Codec[Any]) -> _Entry | None:
        if self._breaker.open:
            return None
        try:
            if not self._clock.known:
                await self._clock.sync(self._line, self.policy.redis_timeout)
            keys = [self._value_key(name)]
            if not tags:
                (data,), known = await self._reader.read(keys), _NO_TAGS
            else:
                keys += [self._key("t", digest(tag)) for tag in tags]
                data, *generations = await self._reader.read(keys)
                known = dict(zip(tags, generations, strict=True))
            return None if data is None else await self._decode(data, codec, known)
        except UNAVAILABLE as error:
            self._unavailable(error)
            return None

    async def _decode(self, data: bytes, codec: Codec[Any], known: dict[str, bytes | None]) -> _Entry | None:
        """None for what can't be decoded or hangs on an invalidated tag, and for an error or a pass past its
        life. How old a value may be is for those to say who use it.
        """
        if len(data) < _IN_THREAD:
            envelope = unpack(data, codec.name)
        else:
            envelope = await asyncio.to_thread(unpack, data, codec.name)
        if envelope is None:
            self.counts["undecodable"] += 1
            return None
        if envelope.tags and await self._invalidated(envelope, known):
            return None
        if envelope.kind is not _VALUE:
            return _Entry(envelope, None) if self._clock.now() < envelope.created + envelope.life else None
        try:
            return _Entry(envelope, codec.decode(envelope.body))
        except Exception:  # noqa: BLE001  # a codec may raise anything; it always means: a miss
            self.counts["undecodable"] += 1
            return None

    async def _invalidated(self, envelope: Envelope, known: dict[str, bytes | None]) -> bool:
        others = [tag for tag in envelope.tags if tag not in known]
        if others:
            read = await self._reader.read([self._key("t", digest(tag)) for tag in others])
            known = {**known, **dict(zip(others, read, strict=True))}
        return any(known[tag] != generation for tag, generation in envelope.tags.items())

    def _due(self, entry: _Entry, cached: Cached[Any], now: float) -> bool:
        """Whether to compute anew now: stale, or nearly so and drawn by lot (XFetch)."""
        envelope = entry.envelope
        if cached.ttl <= 0:
            return now >= envelope.quiet_until
        if envelope.compute * self.policy.beta * -math.log(1.0 - self._uniform()) < cached.ttl:
            return False
        self.counts["early"] += 1
        return True

    # Computing

    def _refresh(self, work: _Work, entry: _Entry) -> None:
        if work.name not in self._flights and not self._breaker.open:
            self._launch(self._flight(work, background=True), work, entry)

    def _launch(self, flight: _AnyFlight, work: _Work, fallback: _Entry | None) -> None:
        self._forget(work.name)
        self._flights[work.name] = flight
        flight.task = self._spawn(self._fly(flight, work, fallback))

    async def _fly(self, flight: _AnyFlight, work: _Work, fallback: _Entry | None) -> None:
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
            self._end(flight, work.name)

    def _end(self, flight: _AnyFlight, name: str) -> None:
        """Nobody joins it any more."""
        if self._flights.get(name) is flight:
            del self._flights[name]

    async def _resolve(self, flight: _AnyFlight, work: _Work, fallback: _Entry | None) -> None:
        """Sets the flight's outcome: another's value, or our own."""
        if fallback is not None and fallback.envelope.kind is Kind.PASS:
            flight.status = Status.BYPASS
            flight.land(Cached(await self._uncached(work), Status.BYPASS))
            return None
        self._wakes.start()
        token = os.urandom(TOKEN_BYTES)
        seen = fallback.envelope.token if fallback else b""
        message = work.name.encode()
        waited_until = self._clock.monotonic() + self.policy.max_compute
        waited = False
        while True:
            _require_wanted()
            event = self._wakes.arm(message)
            try:
                if self._breaker.open:
                    return await self._degraded(flight, work, fallback)
                try:
                    state, answer, generations = await self._enter(work, token, seen)
                    if state == b"V":
                        seen = bytes(answer)[_TOKEN]
                        entry = await self._decode(answer, work.codec, generations)
                        if entry is not None:
                            if self._land(flight, entry, waited=waited):
                                return None
                            fallback = entry
                            if entry.envelope.kind is Kind.PASS:
                                return await self._resolve(flight, work, fallback)
                        continue
                except UNAVAILABLE as error:
                    self._unavailable(error)
                    return await self._degraded(flight, work, fallback)
                if state == b"O":
                    return await self._own(flight, work, fallback, token, generations)
                if flight.background and not flight.waiters:
                    return None  # somebody else is at it, and nobody here waits
                if self._clock.monotonic() > waited_until:
                    raise TimeoutError(f"nobody had an answer within {self.policy.max_compute:g} s")
                waited = True
                pause = self._pause(answer)
                try:
                    async with asyncio.timeout(pause):
                        await event.wait()
                except TimeoutError:
                    self.counts["polls"] += 1
                else:
                    # Most likely the value is there: one GET, and only if not, the whole way again.
                    entry = await self._read(work.name, work.tags, work.codec)
                    if (
                        entry is not None
                        and entry.envelope.token != seen
                        and self._land(flight, entry, waited=True)
                    ):
                        return None
            finally:
                self._wakes.disarm(message, event)

    def _pause(self, lock_ms: int) -> float:
        """How long to wait for a message: not past the lock's end, and with jitter."""
        poll = self.policy.poll if self._wakes.up.is_set() else min(self.policy.poll, 0.05)
        jitter = 0.5 + self._uniform() / 2
        return min(poll * jitter, max(lock_ms, 0) / 1000 + 0.02 * jitter)

    def _land(self, flight: _AnyFlight, entry: _Entry, *, waited: bool) -> bool:
        """Deliver what another process stored. False if it is of no use."""
        _require_wanted()
        if entry.envelope.kind is Kind.ERROR:
            self.counts["negative"] += 1
            flight.fail(RememberedError(_text(entry.envelope.body)))
            return True
        cached = _classify(entry, self._clock.now())
        if cached is None:
            return False
        if waited and cached.status is Status.HIT:
            cached = replace(cached, status=Status.COALESCED, stored=True)
        flight.land(cached)
        return True

    async def _own(
        self,
        flight: _AnyFlight,
        work: _Work,
        fallback: _Entry | None,
        token: bytes,
        generations: dict[str, bytes | None],
    ) -> None:
        """Compute, deliver, write back. The lock is ours, and is given up or used whatever happens."""
        beat = self._spawn(self._beat(work, token))
        started = self._clock.monotonic()
        envelope: Envelope | None = None
        try:
            value = await self._timed(work)
            envelope = await self._encode(work, token, generations, value, self._clock.monotonic() - started)
            if envelope is not None and envelope.kind is Kind.VALUE:
                flight.land(Cached(value, Status.MISS, ttl=envelope.fresh, stored=True))
            else:
                flight.land(Cached(value, Status.MISS))
            if value is _UNFIT:
                self._end(flight, work.name)  # a new caller is not to get what was cut short
        except Exception as error:  # noqa: BLE001  # whatever compute raises is delivered to those who wait
            envelope = self._failed(flight, work, fallback, token, error)
        finally:
            beat.cancel()
            # A task of its own: our cancellation must not keep the lock from those who wait for it.
            write = self._spawn(self._commit(work, envelope) if envelope else self._release(work, token))
        await asyncio.shield(write)

    def _failed(
        self,
        flight: _AnyFlight,
        work: _Work,
        fallback: _Entry | None,
        token: bytes,
        error: Exception,
    ) -> Envelope | None:
        """Deliver a failure, or the old value instead. Returns what to store, if anything."""
        log.info("computing failed: %s", type(error).__name__)
        stale = self._instead(fallback, work)
        if stale is not None and fallback is not None:
            flight.land(stale)
            quiet_until = self._clock.now() + self.policy.negative
            return replace(fallback.envelope, token=token, quiet_until=quiet_until)
        flight.fail(error)
        old = None if fallback is None else fallback.envelope
        if work.force or (
            old is not None and old.kind is Kind.VALUE and self._clock.now() < old.created + old.life
        ):
            return None  # what is stored is good, or may be: a failure does not take its place
        if isinstance(error, self.policy.negative_errors) and self.policy.negative:
            body = type(error).__name__.encode()  # never its text: that may quote a request
            return Envelope(Kind.ERROR, work.codec.name, token, self._clock.now(), self.policy.negative, body)
        return None

    def _instead(self, fallback: _Entry | None, work: _Work) -> Cached[Any] | None:
        """The old value, if it may stand in for an error."""
        if fallback is None or fallback.envelope.kind is not Kind.VALUE:
            return None
        if work.tee is not None and work.tee.begun:
            return None  # the beginning of the new one is out already
        age = max(0.0, self._clock.now() - fallback.envelope.created)
        ttl = fallback.envelope.fresh - age
        if -ttl >= fallback.envelope.stale_if_error:
            return None
        return Cached(fallback.value, Status.STALE, age, ttl)

    async def _degraded(self, flight: _AnyFlight, work: _Work, fallback: _Entry | None) -> None:
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

    @property
    def _gone(self) -> bool:
        return self._breaker.open or self._wakes.lost

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the computations that may be under way while Redis is gone. Raises OverloadedError."""
        try:
            async with asyncio.timeout(self.policy.degraded_wait):
                await self._degraded_slots.acquire()
        except TimeoutError:
            raise OverloadedError("Redis is gone and too many computations are under way") from None
        try:
            yield
        finally:
            self._degraded_slots.release()

    async def _uncached(self, work: _Work) -> Any:
        """Compute what is not to be stored."""
        if not self._gone:
            return await self._timed(work)
        async with self._slot():
            return await self._timed(work)

    async def _limited(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async with self._slot():
                async for chunk in source:
                    yield chunk
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def _timed(self, work: _Work) -> Any:
        self.counts["computes"] += 1
        try:
            async with asyncio.timeout(self.policy.max_compute):
                return await work.compute()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ComputeCancelledError("the computation was cancelled from within") from None

    async def _encode(
        self, work: _Work, token: bytes, generations: dict[str, bytes | None], value: Any, compute: float
    ) -> Envelope | None:
        """What to store: the value; that it is too large; or (None) nothing."""
        if value is _UNFIT:
            self.counts["cut_short"] += 1
            return None
        body = b""
        if value is not _OVERSIZE:
            try:
                body = work.codec.encode(value)
            except Exception:
                self.counts["unencodable"] += 1
                log.exception("a value could not be encoded, and was not stored")
                return None
        now, policy = self._clock.now(), self.policy
        if value is _OVERSIZE or len(body) > policy.max_bytes:
            self.counts["oversize"] += 1
            return Envelope(Kind.PASS, work.codec.name, token, now, min(policy.fresh, _PASS_FOR), b"")
        tags = {tag: generation for tag, generation in generations.items() if generation is not None}
        return Envelope(
            Kind.VALUE,
            work.codec.name,
            token,
            now,
            policy.fresh,
            body,
            policy.stale,
            policy.stale_if_error,
            compute,
            tags=tags,
        )

    # Talking to Redis

    async def _enter(
        self, work: _Work, token: bytes, seen: bytes
    ) -> tuple[bytes, Any, dict[str, bytes | None]]:
        """Read again, or take the lock, or learn how long it is taken for. Raises what UNAVAILABLE lists."""
        sent, cancellations = self._clock.monotonic(), _cancellations()
        policy, tell_time = self.policy, int(not self._clock.known)
        arguments = (token, _ms(policy.lock_ttl), seen, int(work.force), self._tag_ttl, tell_time)
        try:
            async with asyncio.timeout(policy.redis_timeout):
                state, seconds, microseconds, answer, *generations = await scripts.ENTER(
                    self._line,
                    self._keys(work.name, work.tags),
                    *arguments,
                    *(os.urandom(8) for _ in work.tags),
                )
                _require_wanted(cancellations)
        except (asyncio.CancelledError, *UNAVAILABLE):
            self._spawn(self._release(work, token))  # the lock may be ours without our knowing
            raise
        if seconds:
            self._clock.observe(sent, int(seconds), int(microseconds))
        return state, answer, dict(zip(work.tags, generations, strict=True))

    async def _beat(self, work: _Work, token: bytes) -> None:
        every = self.policy.lock_ttl / 3
        while True:
            await asyncio.sleep(every)
            try:
                async with asyncio.timeout(every):
                    if not await scripts.BEAT(
                        self._line, [self._key("l", work.name)], token, _ms(self.policy.lock_ttl)
                    ):
                        return  # somebody else's now; the commit will find out and not store
            except UNAVAILABLE:
                self.counts["beats_failed"] += 1

    async def _commit(self, work: _Work, envelope: Envelope, tells: bytes = b"w") -> bool:
        """Store it, and tell the others: to wake up, or (b"i") to forget what they compute themselves."""
        remaining = envelope.created + envelope.life - self._clock.now()
        try:
            if len(envelope.body) < _IN_THREAD:
                data = envelope.pack()
            else:
                data = await asyncio.to_thread(envelope.pack)
            async with asyncio.timeout(self.policy.write_timeout):
                stored = await scripts.COMMIT(
                    self._line,
                    self._keys(work.name, envelope.tags),
                    envelope.token,
                    max(1, _ms(remaining)),
                    data,
                    self._channel,
                    tells + work.name.encode(),
                    *envelope.tags.values(),
                )
        except UNAVAILABLE as error:
            self.counts["store_failed"] += 1
            self._unavailable(error)
            await self._release(work, envelope.token)  # or others wait until it ends by itself
            return False
        self.counts["stored" if stored == 1 else "lost"] += 1
        return bool(stored == 1)

    async def _release(self, work: _Work, token: bytes) -> None:
        try:
            async with asyncio.timeout(self.policy.write_timeout):
                await scripts.RELEASE(
                    self._line,
                    [self._key("l", work.name)],
                    token,
                    self._channel,
                    b"w" + work.name.encode(),
                )
        except UNAVAILABLE:
            self.counts["releases_failed"] += 1  # the lock ends by itself

    def _keys(self, name: str, tags: Iterable[str]) -> list[str]:
        return [self._key("v", name), self._key("l", name), *(self._key("t", digest(tag)) for tag in tags)]

    def _unavailable(self, error: BaseException) -> None:
        self.counts["refused" if is_refusal(error) else "unavailable"] += 1
        self._breaker.trip(error)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _count(self, cached: Cached[Any]) -> Cached[Any]:
        self.counts[_COUNTED[cached.status]] += 1
        return cached


def _require_answerable(directives: Directives) -> None:
    if directives.only_if_cached and (directives.no_cache or directives.no_store):
        raise NotCachedError("only-if-cached with no-cache or no-store leaves nothing to answer with")


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _require_wanted(before: int = 0) -> None:
    """Raise the cancellation that this task was sent and that redis-py lost: Python 3.11's wait_for, in which it
    sends, forgets one that comes when the command is out already.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError


def _shared(cached: Cached[Any], *, leads: bool) -> Cached[Any]:
    if leads or cached.status is not Status.MISS:
        return cached
    return replace(cached, status=Status.COALESCED)


def _classify(entry: _Entry, now: float) -> Cached[Any] | None:
    """Fresh, stale but usable now, or (None) only of use should computing fail, or no value at all."""
    envelope = entry.envelope
    if envelope.kind is not _VALUE:
        return None
    age = now - envelope.created
    if age < 0:
        age = 0.0
    ttl = envelope.fresh - age
    if ttl > 0:
        return Cached(entry.value, _HIT, age, ttl)
    if -ttl < envelope.stale or now < envelope.quiet_until:
        return Cached(entry.value, Status.STALE, age, ttl)
    return None


def _leave(flight: Flight[Any], tee: Tee, place: object) -> None:
    """Once, however often it is called."""
    if tee.part(place):
        flight.leave()


async def _read(tee: Tee, place: object, leave: Callable[[], None]) -> AsyncIterator[bytes]:
    try:
        async for chunk in tee.read(place):
            yield chunk
    finally:
        leave()


@lru_cache(_NAMES)
def _value_name(key: str) -> str:
    return digest("value:" + key)


@lru_cache(_NAMES)
def _stream_name(key: str) -> str:
    return digest("stream:" + key)


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


async def _nothing() -> None:
    raise AssertionError("a put computes nothing")
