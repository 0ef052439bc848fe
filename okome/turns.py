"""Computing within its limits: of time, and of how many at once while Redis is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from okome.envelope import as_bytes
from okome.errors import ComputeCancelledError, OverloadedError
from okome.flight import computing
from okome.policy import CachePolicy


class Turns:
    """Of one cache. `gone`: whether Redis is.

    What is computed inside of another computation has a limit of its own, as large, for each level: it would wait for
    the turns of those who wait for it.
    """

    def __init__(self, policy: CachePolicy, counts: Counter[str], gone: Callable[[], bool]) -> None:
        self._policy = policy
        self._counts = counts
        self._gone = gone
        self._slots: dict[int, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One of the computations that may be under way while Redis is gone. Raises OverloadedError."""
        level = 0 if (within := computing()) is None else within.level + 1
        slots = self._slots.setdefault(level, asyncio.Semaphore(self._policy.degraded_computes))
        try:
            async with asyncio.timeout(self._policy.degraded_wait):
                await slots.acquire()
        except TimeoutError:
            raise OverloadedError("Redis is gone and too many computations are under way") from None
        try:
            yield
        finally:
            slots.release()

    def if_needed(self) -> AbstractAsyncContextManager[None]:
        """Likewise; with Redis there is no limit to them."""
        return self.one() if self._gone() else nullcontext()

    async def timed(self, compute: Callable[[], Awaitable[Any]]) -> Any:
        """What compute() returns, within policy.max_compute."""
        self._counts["computes"] += 1
        try:
            async with asyncio.timeout(self._policy.max_compute):
                return await compute()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ComputeCancelledError("the computation was cancelled from within") from None

    async def stream(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The source's chunks, in its turn if one is needed."""
        try:
            async with self.if_needed():
                async for chunk in source:
                    yield as_bytes("a stream's chunk", chunk)
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
