"""Whoever hangs up before there is an answer: what is done for them stops, and nobody else is stopped."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from okome import hang_up
from okome.hang_up import unless_hung_up

pytestmark = pytest.mark.anyio
Message = MutableMapping[str, Any]


class Client:
    """Sends nothing more; hangs up when told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.looks = 0

    async def receive(self) -> Message:
        self.looks += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_an_answer_that_is_there_at_once_costs_no_look() -> None:
    client = Client()

    async def answering() -> str:
        await asyncio.sleep(0)
        return "answer"

    assert await unless_hung_up(client.receive, answering()) == "answer"
    await asyncio.sleep(2 * hang_up.PATIENCE)
    assert client.looks == 0


async def test_who_hangs_up_stops_it_and_the_task_goes_on() -> None:
    client, ended = Client(), asyncio.Event()

    async def answering() -> str:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return "answer"

    asyncio.get_running_loop().call_later(0.05, client.gone.set)
    assert await asyncio.wait_for(unless_hung_up(client.receive, answering()), 30) is None
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_cancellation_that_is_lost_is_sent_again() -> None:
    client, lost = Client(), 0

    async def answering() -> str:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(3600)
        return "answer"

    client.gone.set()
    assert await asyncio.wait_for(unless_hung_up(client.receive, answering()), 60) is None
    assert lost == 2


async def test_a_cancellation_of_ones_own_goes_on() -> None:
    client, before = Client(), asyncio.all_tasks()
    waiting = asyncio.create_task(unless_hung_up(client.receive, asyncio.sleep(3600)))
    await asyncio.sleep(2 * hang_up.PATIENCE)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before, "somebody is still looking"
