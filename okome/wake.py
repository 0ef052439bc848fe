"""One standing subscription per process: who waits for another process's result is woken when it is there."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from okome.connection import UNAVAILABLE

SILENCE = 5.0  # s without a message, after which the server is asked whether it is still there
RECONNECT = (0.05, 1.0)  # s between attempts, at first and at most


class Wakes:
    """`arm` a waiter first, look at Redis then, and wait last: a message between the two can't be missed.

    Pub/sub loses messages while the connection is down, so every (re)subscription, and every loss, wakes
    everyone. `heard` is called with each message before the waiters are woken.
    """

    def __init__(self, redis: Any, channel: str, heard: Callable[[bytes], None]) -> None:
        self._redis = redis
        self._channel = channel
        self._heard = heard
        self._armed: dict[bytes, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self.up = asyncio.Event()
        """Set while subscribed."""
        self.lost = False
        """Whether the last attempt to subscribe failed, or what it led to has ended."""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name=f"subscription to {self._channel}")

    async def aclose(self) -> None:
        task, self._task = self._task, None
        # More than once: a cancellation that meets a time limit of the client's just then is lost with it.
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1)

    async def renew(self) -> None:
        """Subscribes anew, over another connection."""
        if self._task is not None:
            await self.aclose()
            self.start()

    def arm(self, name: bytes) -> asyncio.Event:
        event = asyncio.Event()
        self._armed.setdefault(name, set()).add(event)
        return event

    def disarm(self, name: bytes, event: asyncio.Event) -> None:
        events = self._armed[name]
        events.discard(event)
        if not events:
            del self._armed[name]

    def wake(self, name: bytes) -> None:
        for event in self._armed.get(name, ()):
            event.set()

    def wake_everyone(self) -> None:
        for name in self._armed:
            self.wake(name)

    async def _listen(self) -> None:
        pause = RECONNECT[0]
        while True:
            pubsub = self._redis.pubsub()
            try:
                await self._redis.initialize()  # a cluster's client does not know its nodes before
                await pubsub.subscribe(self._channel)
                await self._receive(pubsub)
            except UNAVAILABLE:
                if self.up.is_set():
                    pause = RECONNECT[0]
            finally:
                self.up.clear()
                self.lost = True
                self.wake_everyone()
                with suppress(*UNAVAILABLE):
                    await pubsub.aclose()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not cryptography
            pause = min(2 * pause, RECONNECT[1])

    async def _receive(self, pubsub: Any) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=SILENCE)
            if message is None:
                if asked:
                    raise RedisConnectionError("the subscription is silent, even when asked")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "subscribe":
                self.up.set()
                self.lost = False
                self.wake_everyone()
            elif message["type"] == "message":
                self._heard(message["data"])
                self.wake(message["data"][1:])
