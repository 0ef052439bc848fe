"""A stream as its caller gets it."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self


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
