"""Work in several processes behind one barrier, for benches and tests: what one event loop can't show."""

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Barrier(Protocol):
    def wait(self, timeout: float | None = None) -> int: ...


Worker = Callable[..., Coroutine[Any, Any, Any]]

_SPAWN = multiprocessing.get_context("spawn")


def _run(worker: Worker, results: Any, arguments: tuple[Any, ...]) -> None:
    try:
        results.put((True, asyncio.run(worker(*arguments))))
    except Exception as error:  # noqa: BLE001  # told to the parent, which raises it
        results.put((False, f"{type(error).__name__}: {error}"))


class Processes:
    """`worker(*arguments)` in a process for each of `argument_lists`, all started at once."""

    def __init__(self, worker: Worker, argument_lists: list[tuple[Any, ...]]) -> None:
        self._results: Any = _SPAWN.Queue()
        self.processes = [
            _SPAWN.Process(target=_run, args=(worker, self._results, arguments), daemon=True)
            for arguments in argument_lists
        ]
        for process in self.processes:
            process.start()

    def results(self, count: int | None = None, *, within: float = 60.0) -> list[Any]:
        """What `count` of the workers (all, by default) returned, in the order of their ends."""
        found = []
        for _ in range(len(self.processes) if count is None else count):
            fine, result = self._results.get(timeout=within)
            if not fine:
                raise RuntimeError(f"a worker failed: {result}")
            found.append(result)
        return found

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join(timeout=10)


def barrier(parties: int) -> Any:
    return _SPAWN.Barrier(parties)


def event() -> Any:
    return _SPAWN.Event()
