"""The end of tasks that nobody awaits."""

import asyncio

import pytest

from okome.tasks import Tasks

pytestmark = pytest.mark.anyio


async def test_what_ends_in_time_is_not_cancelled() -> None:
    tasks, done = Tasks(), asyncio.Event()

    async def soon() -> None:
        await asyncio.sleep(0.01)
        done.set()

    tasks.spawn(soon())
    await tasks.end(60)
    assert done.is_set()
    assert not tasks


async def test_what_is_cancelled_may_finish() -> None:
    tasks, finished = Tasks(), list[str]()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            finished.append("undone")

    tasks.spawn(long())
    await tasks.end(0.2)
    assert finished == ["undone"]


async def test_what_swallows_its_cancellations_is_left_after_three() -> None:
    tasks, cancelled, let_go = Tasks(), list[int](), asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                cancelled.append(1)

    task = tasks.spawn(stubborn())
    await tasks.end(0.05)
    await asyncio.sleep(0)
    assert len(cancelled) == 3
    let_go.set()
    await task
