"""One source, many readers: a stream is forwarded to all of them while it is kept for the cache."""

import asyncio
from collections.abc import AsyncIterator

from okome.envelope import as_bytes

_AHEAD = 256 * 1024  # bytes the source may be ahead of the slowest reader once nothing is kept any more


class Tee:
    """Every reader gets every chunk from the first.

    All chunks are kept until there are more than `max_bytes`; from then on only what some reader has yet to
    get, the source waits for the slowest reader, and nobody can join.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._dropped = 0  # chunks, from the beginning
        self._bytes = 0  # kept now
        self._positions: dict[object, int] = {}
        self._changed = asyncio.Event()
        self._done = False
        self._error: BaseException | None = None
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first chunk is there."""
        self.overflowed = False

    @property
    def begun(self) -> bool:
        return self.first.done()

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """All of them; meaningless once `overflowed`."""
        return tuple(self._chunks)

    def _nudge(self) -> None:
        """Let everybody who waits look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def pump(self, source: AsyncIterator[bytes]) -> None:
        """Read the source to its end. Raises what it raises; so do its readers, after the chunks. If that comes before
        the first chunk, another source may be read in its place.
        """
        self._done, self._error = False, None
        try:
            async for chunk in source:
                self._chunks.append(as_bytes("a stream's chunk", chunk))
                self._bytes += len(chunk)
                if not self.begun:
                    self.first.set_result(None)
                self.overflowed = self.overflowed or self._bytes > self._max_bytes
                self._nudge()
                while self.overflowed:
                    self._trim()
                    if self._bytes <= _AHEAD:
                        break
                    await self._changed.wait()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._done = True
            self._nudge()
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _trim(self) -> None:
        slowest = min(self._positions.values(), default=self._dropped + len(self._chunks))
        gone = self._chunks[: slowest - self._dropped]
        del self._chunks[: len(gone)]
        self._dropped += len(gone)
        self._bytes -= sum(map(len, gone))

    def join(self, reader: object) -> None:
        """At the beginning; it may `read` then, until it `part`s."""
        self._positions[reader] = 0

    def part(self, reader: object) -> bool:
        """Whether it was still here."""
        if self._positions.pop(reader, None) is None:
            return False
        self._nudge()
        return True

    async def read(self, reader: object) -> AsyncIterator[bytes]:
        while True:
            position = self._positions[reader]
            if position - self._dropped < len(self._chunks):
                chunk = self._chunks[position - self._dropped]
                self._positions[reader] = position + 1
                if self.overflowed:
                    self._nudge()
                yield chunk
            elif self._error is not None:
                if isinstance(self._error, Exception):
                    raise self._error
                raise ConnectionAbortedError("the stream was given up at its source")
            elif self._done:
                return
            else:
                await self._changed.wait()
