"""Clients that hang up while they wait: what nobody reads any more is not computed either."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")

PATIENCE = 0.02  # s for which nobody looks


async def unless_hung_up(receive: Receive, answering: Awaitable[T]) -> T | None:
    """Its answer; or None, and it is cancelled, if the client hangs up before there is one. Nobody looks during
    PATIENCE: most answers are there by then, and to look costs a task.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request is answered in a task")
    watch = _Watch(task, receive)
    timer = asyncio.get_running_loop().call_later(PATIENCE, watch.begin)
    try:
        return await answering
    except asyncio.CancelledError:
        if watch.end():
            return None
        raise
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    """Cancels the task when the client has hung up."""

    def __init__(self, task: "asyncio.Task[Any]", receive: Receive) -> None:
        self._task = task
        self._receive = receive
        self._looking: asyncio.Task[None] | None = None
        self._cancelled = 0

    def begin(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        while True:  # more than once: redis-py may lose a cancellation
            self._cancelled += 1
            self._task.cancel()
            await asyncio.sleep(1)

    def end(self) -> bool:
        """Takes back what it did. Whether it did anything, and nobody else cancelled the task, too."""
        if self._looking is not None:
            self._looking.cancel()
        cancelled, self._cancelled = self._cancelled, 0
        for _ in range(cancelled):
            self._task.uncancel()
        return cancelled > 0 and not self._task.cancelling()
