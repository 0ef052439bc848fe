"""Streams as callers get them: shared while they are produced, or replayed from the cache."""

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Self

from okome.entry import Cached
from okome.errors import is_callers
from okome.flight import Caller, Flight
from okome.headers import Status
from okome.tee import Tee


class CachedStream:
    """Chunks and the headers to send before them. Iterate it once, or `aclose` it: a reader that leaves early
    is what lets the source stop.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        headers: dict[str, str],
        closed: Callable[[], None] | None = None,
    ) -> None:
        """`closed`: called by `aclose`, for a generator that was never started does nothing when closed."""
        if not hasattr(chunks, "__anext__"):
            raise TypeError(f"chunks are an async iterator, not {chunks!r}")
        self._chunks = chunks
        self._closed = closed
        self._headers = headers
        self._first: bytes | None = None

    @classmethod
    async def begin(cls, chunks: AsyncIterator[bytes], headers: dict[str, str]) -> Self:
        """Once the first chunk is there: what the source raises instead is raised here, before any header is
        out.
        """
        stream = cls(chunks, headers)
        try:
            stream._first = await anext(chunks)
        except StopAsyncIteration:
            pass
        except BaseException:
            await stream.aclose()
            raise
        return stream

    @classmethod
    def replay(cls, chunks: Iterable[bytes], headers: dict[str, str]) -> Self:
        if isinstance(chunks, str | bytes) or not hasattr(chunks, "__iter__"):
            raise TypeError(f"chunks are several, each of them bytes; not {chunks!r}")
        return cls(_each(chunks), headers)

    def headers(self) -> dict[str, str]:
        """X-OKOME-Cache, Cache-Status and Age."""
        return dict(self._headers)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._chunks)

    async def aclose(self) -> None:
        close = getattr(self._chunks, "aclose", None)
        try:
            if close is not None:
                await close()
        finally:
            if self._closed is not None:
                self._closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _each(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def follow(
    flight: Flight[Cached[Any]],
    caller: Caller[Cached[Any]],
    tee: Tee,
    fresh: float,
    counted: Callable[[Cached[Any]], Cached[Any]],
) -> CachedStream:
    """The stream of a flight that `caller` has entered, once its first chunk is there, or its end. `fresh`: seconds for
    which it will be; `counted`: what callers are told, from what the flight has.
    """
    tee.join(caller)
    leave = partial(_leave, flight, tee, caller)
    try:
        cached = await caller.told
        if cached is None:
            kept = flight.status is Status.MISS
            cached = counted(Cached((), flight.status, ttl=fresh if kept else 0.0, stored=kept))
            return CachedStream(_read(flight, caller, tee, leave), cached.headers(), leave)
        # Another process computed it, or it has no chunks.
        cached = counted(cached)
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
