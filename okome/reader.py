"""Reading from Redis: the GETs of one event-loop tick become one MGET, a lone one goes out as it is."""

import asyncio
from collections.abc import Sequence
from typing import Any

MAX_KEYS = 128  # per MGET, so that one answer never holds up everybody


class Reader:
    """Reads keys of one hash slot. Each call has `timeout` seconds; raises what okome.connection.UNAVAILABLE
    lists.

    While nothing is under way a read is sent at once, in the caller's own task. Whatever else arrives in the
    same tick is gathered: one round trip and one parse for all of it, and equal keys are asked for once.
    """

    def __init__(self, redis: Any, timeout: float) -> None:
        self._redis = redis
        self._timeout = timeout
        self._alone = True
        self._queued: dict[str, asyncio.Future[bytes | None]] = {}
        self._flushes: set[asyncio.Task[None]] = set()

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        if self._alone:
            self._alone = False
            try:
                async with asyncio.timeout(self._timeout):
                    if len(keys) == 1:
                        return [await self._redis.execute_command("GET", keys[0])]
                    answer: list[bytes | None] = await self._redis.execute_command("MGET", *keys)
                    return answer
            finally:
                self._alone = True
        loop = asyncio.get_running_loop()
        if not self._queued:
            loop.call_soon(self._flush)
        futures = []
        for key in keys:
            future = self._queued.get(key)
            if future is None:
                future = self._queued[key] = loop.create_future()
            futures.append(future)
        # asyncio.wait leaves the futures alone when this caller is cancelled: others may wait for them too.
        if len(futures) > 1 or not futures[0].done():
            await asyncio.wait(futures)
        return [future.result() for future in futures]

    def _flush(self) -> None:
        queued, self._queued = list(self._queued.items()), {}
        for start in range(0, len(queued), MAX_KEYS):
            flush = asyncio.create_task(self._fetch(dict(queued[start : start + MAX_KEYS])))
            self._flushes.add(flush)
            flush.add_done_callback(self._flushes.discard)

    async def _fetch(self, wanted: dict[str, "asyncio.Future[bytes | None]"]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                values = await self._redis.execute_command("MGET", *wanted)
        except BaseException as error:
            for future in wanted.values():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # seen: nobody may be left to ask
                else:
                    future.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for future, value in zip(wanted.values(), values, strict=True):
                future.set_result(value)
