"""Tasks that nobody awaits: the event loop itself would forget them half-way."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks(set[asyncio.Task[Any]]):
    """Those that are not done."""

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)
        return task

    async def end(self, patience: float) -> None:
        """Lets them finish, for `patience` seconds, and then cancels them; one that swallows that does not hold us up
        for ever."""
        for _ in range(3):
            if self:
                await asyncio.wait(set(self), timeout=patience)
                for task in self:
                    task.cancel()
