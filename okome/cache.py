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

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Generic, Self, TypeVar

from okome.arguments import (
    begun,
    names_of,
    require_function,
    require_name,
    require_plain_function,
    require_seconds,
)
from okome.computation import Computations
from okome.connection import Clock, Loop
from okome.entry import Cached, shared, usable
from okome.envelope import Codec, require_codec
from okome.flight import Flights, Work
from okome.headers import Directives, Status
from okome.keeping import Keeping
from okome.keys import digest, stream_name, value_name
from okome.lookup import Lookup, require_answerable
from okome.policy import CachePolicy
from okome.store import Store
from okome.stream import CachedStream
from okome.streams import Streams
from okome.tasks import Tasks
from okome.turns import Turns

T = TypeVar("T")

_NO_DIRECTIVES = Directives()
_COUNTED = {status: status.value.lower() for status in Status}


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
        if policy is not None and not isinstance(policy, CachePolicy):
            raise TypeError(f"policy is a CachePolicy, not {policy!r}")
        if clock is not None and not isinstance(clock, Clock):
            raise TypeError(f"clock is a Clock, not {clock!r}")
        require_plain_function("uniform", uniform, "a function that draws a number from 0 to 1")
        require_codec(codec)
        self.policy = policy or CachePolicy()
        self.counts: Counter[str] = Counter()
        self._codec = codec
        self._clock = clock or Clock()
        self._loop = Loop("this Cache belongs")
        self._tasks = Tasks()
        self._flights = Flights()
        self._store = Store(
            redis,
            namespace,
            self.policy,
            self._clock,
            self._tasks,
            self.counts,
            forget=self._flights.forget,
            forget_tag=self._flights.forget_tag,
        )
        self._flights.place = self._store.place
        self._keeping = Keeping(self.policy, self._clock, self.counts)
        self._turns = Turns(self.policy, self.counts, lambda: self._store.gone)
        self._computations = Computations(
            self._store,
            self._flights,
            self.policy,
            self._clock,
            self._tasks,
            self.counts,
            uniform,
            self._keeping,
            self._turns,
        )
        self._lookup = Lookup(
            self._store, self._flights, self._computations, self.policy, self._clock, self.counts, uniform
        )
        self._streams = Streams(self._lookup, self._turns, self.policy, self._count)

    async def __aenter__(self) -> Self:
        """Subscribes first, so that the first miss is woken as fast as all others."""
        self._loop.require()
        await self._store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Lets write-backs finish within their deadline, cancels computations, ends the subscription."""
        self._loop.require()
        self._flights.close()
        await self._tasks.end(2 * self.policy.write_timeout)
        await self._store.aclose()

    @property
    def available(self) -> bool:
        """Whether Redis was there when last heard of."""
        return self._store.available

    async def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Awaitable[T]],
        *,
        tags: Collection[str] = (),
        directives: Directives = _NO_DIRECTIVES,
        keep: Callable[[T], bool | float] | None = None,
    ) -> Cached[T]:
        """The cached value, or compute()'s, which runs at most once at a time for all processes.

        `keep` says of a computed value whether it is stored, or for how many seconds it is fresh; the default is
        to store all. What it declines goes to those who waited for it, and to nobody else.

        compute() runs in its caller's context. A CallerError that it raises is that caller's alone: whoever waits
        computes for himself. The value comes as it does from Redis, by the codec, wherever it comes from.

        Raises what compute raises; RememberedError, NotCachedError, OverloadedError, ComputeCancelledError,
        CircularError; and TimeoutError after policy.max_compute. Never an error of Redis.
        """
        self._loop.require()
        require_answerable(directives)
        require_function("compute", compute, "an async function, which is called if it has to be")
        if keep is not None:
            require_plain_function("keep", keep, "a function of what was computed")
        work = Work(
            value_name(key), compute, self._codec, names_of("tags", tags), directives.no_cache, keep=keep
        )
        if directives.no_store:
            async with self._turns.if_needed():
                value, _ = self._keeping.carried(
                    work, await self._turns.timed(lambda: begun("compute", compute))
                )
            return self._count(Cached(value, Status.BYPASS))
        found = await self._lookup.find(work, directives)
        if isinstance(found, Cached):
            return self._count(found)
        flight, caller = found
        return self._count(shared(await flight.join(caller), leads=flight.leader is caller))

    async def stream(
        self,
        key: str,
        produce: Callable[[], AsyncIterator[bytes]],
        *,
        complete: Callable[[Sequence[bytes]], bool | float],
        tags: Collection[str] = (),
        directives: Directives = _NO_DIRECTIVES,
    ) -> CachedStream:
        """The chunks of produce(), forwarded as they come and stored at the end, or replayed chunk by chunk.

        Callers of this process share one stream; other processes wait for its end and replay it. A stream
        that raises, is abandoned by its last reader, or of whose chunks `complete` says no, is never stored;
        it may say for how many seconds they are fresh.

        `complete` looks for the mark that only a whole stream ends with, such as the last event of SSE: a source
        that breaks off often just ends, without an error. So there is no default that would be safe.
        """
        self._loop.require()
        require_answerable(directives)
        require_function("produce", produce, "an async generator's function, which is called if it has to be")
        require_plain_function("complete", complete, "a function of a stream's chunks")
        return await self._streams.serve(key, produce, complete, names_of("tags", tags), directives)

    async def get(self, key: str, *, tags: Collection[str] = ()) -> Cached[T] | None:
        """What is stored and still fresh or stale, or None. Never computes, never raises for Redis."""
        self._loop.require()
        entry = await self._store.read(value_name(key), names_of("tags", tags), self._codec)
        cached = None if entry is None else usable(entry, self._clock.now())
        return None if cached is None else self._count(cached)

    async def put(self, key: str, value: T, *, tags: Collection[str] = (), compute: float = 0.0) -> bool:
        """Store a value that was computed elsewhere, in `compute` seconds; whoever computes it now won't
        overwrite it. False if it is too large or Redis did not take it. Raises TypeError for what the codec can't
        carry.
        """
        self._loop.require()
        require_seconds("compute", compute, zero=True)
        return await self._computations.put(
            value_name(key), self._codec, names_of("tags", tags), value, compute
        )

    async def invalidate(self, key: str) -> bool:
        """Forget the key: what is being computed for it now will not be stored. False if Redis could not be
        told.
        """
        self._loop.require()
        names = (value_name(key), stream_name(key))
        for name in names:
            self._flights.forget(name)
        return await self._store.invalidate(names)

    async def invalidate_tag(self, tag: str) -> bool:
        """Forget every entry with this tag, stored or being computed. False if Redis could not be told."""
        self._loop.require()
        require_name("tag", tag)
        self._flights.forget_tag(digest(tag))
        return await self._store.invalidate_tag(tag)

    def _count(self, cached: Cached[Any]) -> Cached[Any]:
        self.counts[_COUNTED[cached.status]] += 1
        return cached
