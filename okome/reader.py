"""Reading from Redis: concurrent GETs become one MGET, a lone one goes out as it is."""

import asyncio
from collections.abc import Awaitable, Sequence

from okome.connection import Line

_Read = tuple[Sequence[str], "asyncio.Future[list[bytes | None]]"]

MAX_KEYS = 128  # per MGET
PATIENCE = 0.001  # s that a read waits for an earlier answer, to go out together with those whom it wakes


class Reader:
    """Reads keys of one hash slot. Each call has `timeout` seconds (None: the client sees to it); raises what
    UNAVAILABLE lists.

    While nothing is under way a read is sent at once, in the caller's own task. The others are gathered,
    those of one event-loop tick at least, into one round trip and one parse; equal keys are asked for once.
    None goes out before it was asked for, so nobody gets a value older than his question.
    """

    def __init__(self, line: Line, timeout: float | None) -> None:
        self._line = line
        self._timeout = timeout
        self._under_way = 0
        self._queued: list[_Read] = []
        self._wanted: dict[str, None] = {}  # their keys, each once
        self._patience: asyncio.TimerHandle | None = None
        self._fetches: set[asyncio.Task[None]] = set()

    def read(self, keys: Sequence[str]) -> Awaitable[list[bytes | None]]:
        """To be awaited at once. Not a coroutine: of those that are gathered each would cost one."""
        if not self._under_way and not self._queued:
            return self._alone(keys)
        loop = asyncio.get_running_loop()
        if not self._queued:
            self._patience = loop.call_later(PATIENCE, self._flush)
        answer: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._queued.append((keys, answer))
        for key in keys:
            self._wanted[key] = None
        if len(self._wanted) >= MAX_KEYS:
            self._flush()
        return answer

    async def _alone(self, keys: Sequence[str]) -> list[bytes | None]:
        self._under_way += 1
        try:
            if self._timeout is None:
                return await self._get(keys)
            async with asyncio.timeout(self._timeout):
                return await self._get(keys)
        finally:
            self._under_way -= 1
            if self._queued:
                asyncio.get_running_loop().call_soon(self._flush)

    async def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        if len(keys) == 1:
            return [await self._line.execute_command("GET", keys[0])]
        values: list[bytes | None] = await self._line.execute_command("MGET", *keys)
        return values

    def _flush(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._queued:
            fetch = asyncio.create_task(self._fetch(self._queued, self._wanted))
            self._queued, self._wanted = [], {}
            self._under_way += 1
            self._fetches.add(fetch)
            fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, batch: list[_Read], wanted: dict[str, None]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                values = await self._line.execute_command("MGET", *wanted)
        except BaseException as error:
            for _, answer in batch:
                if answer.done():  # whoever asked has been cancelled
                    continue
                if isinstance(error, Exception):
                    answer.set_exception(error)
                else:
                    answer.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            found = dict(zip(wanted, values, strict=True))
            for keys, answer in batch:
                if not answer.done():
                    # A comprehension is a function call, and nearly all ask for one key.
                    answer.set_result([found[keys[0]]] if len(keys) == 1 else [found[key] for key in keys])
        finally:
            # After the tasks that this answer wakes: what they ask for next is gathered, too.
            asyncio.get_running_loop().call_soon(self._fetched)

    def _fetched(self) -> None:
        self._under_way -= 1
        self._flush()
