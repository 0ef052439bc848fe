"""How a stream is got: shared while it is produced, replayed from the cache, or past it."""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from okome.arguments import opened
from okome.entry import Cached, shared
from okome.envelope import Msgpack
from okome.errors import is_callers
from okome.flight import Caller, Flight, Work
from okome.headers import Directives, Status
from okome.keys import stream_name
from okome.lookup import Lookup
from okome.policy import CachePolicy
from okome.stream import CachedStream
from okome.tee import Tee
from okome.turns import Turns

_CHUNKS: Msgpack[tuple[bytes, ...]] = Msgpack(tuple[bytes, ...])


class Streams:
    """Of one cache. `count`: notes what a caller is told."""

    def __init__(
        self,
        lookup: Lookup,
        turns: Turns,
        policy: CachePolicy,
        count: Callable[[Cached[Any]], Cached[Any]],
    ) -> None:
        self._lookup = lookup
        self._turns = turns
        self._policy = policy
        self._count = count

    async def serve(
        self,
        key: str,
        produce: Callable[[], AsyncIterator[bytes]],
        complete: Callable[[Sequence[bytes]], bool | float],
        tags: tuple[str, ...],
        directives: Directives,
    ) -> CachedStream:
        """As Cache.stream has it."""

        async def pump(tee: Tee) -> tuple[bytes, ...]:
            await tee.pump(opened("produce", produce))
            return tee.chunks

        work = Work(stream_name(key), pump, _CHUNKS, tags, directives.no_cache, streams=True, keep=complete)
        if directives.no_store:
            return await self._bypass(produce)
        found = await self._lookup.find(work, directives)
        if isinstance(found, Cached):
            self._count(found)
            return CachedStream.replay(found.value, found.headers())
        flight, caller = found
        if flight.tee is None or flight.tee.overflowed:
            flight.leave(caller)
            return await self._bypass(produce)
        return await self._follow(flight, caller, flight.tee)

    async def _bypass(self, produce: Callable[[], AsyncIterator[bytes]]) -> CachedStream:
        cached = Cached((), Status.BYPASS)
        stream = await CachedStream.begin(self._turns.stream(opened("produce", produce)), cached.headers())
        self._count(cached)
        return stream

    async def _follow(
        self, flight: Flight[Cached[Any]], caller: Caller[Cached[Any]], tee: Tee
    ) -> CachedStream:
        """The stream of a flight that `caller` has entered, once its first chunk is there, or its end."""

        def told(cached: Cached[Any]) -> Cached[Any]:
            return self._count(shared(cached, leads=flight.leader is caller))

        tee.join(caller)
        leave = partial(_leave, flight, tee, caller)
        try:
            cached = await caller.told
            if cached is None:
                kept = flight.status is Status.MISS
                fresh = self._policy.fresh if kept else 0.0
                cached = told(Cached((), flight.status, ttl=fresh, stored=kept))
                return CachedStream(_read(flight, caller, tee, leave), cached.headers(), leave)
            # Another process computed it, or it has no chunks.
            cached = told(cached)
        except BaseException:
            leave()
            raise
        leave()
        return CachedStream.replay(cached.value, cached.headers())


def _leave(flight: Flight[Any], tee: Tee, caller: Caller[Any]) -> None:
    """Once, however often it is called."""
    if tee.part(caller):
        flight.leave(caller)


async def _read(
    flight: Flight[Any], caller: Caller[Any], tee: Tee, leave: Callable[[], None]
) -> AsyncIterator[bytes]:
    try:
        async for chunk in tee.read(caller):
            yield chunk
    except Exception as error:
        if flight.leader is caller or not is_callers(error):
            raise
        raise ConnectionAbortedError("the stream was given up at its source") from None
    finally:
        leave()
