"""What the cache's tests share: an origin that can be held up, and a clock that stands still."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from bench.redis_server import RedisServer
from okome import Cache, CachePolicy
from okome.connection import Clock

PATIENT = CachePolicy(redis_timeout=30, write_timeout=30, lock_ttl=1000, poll=1000)
"""A machine that is busy decides nothing."""


class Answer(msgspec.Struct, frozen=True):
    text: str


class Origin:
    """Counts its calls; each takes until `release` is set (at once, by default), then fails or answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.error: BaseException | None = None
        self.cancelled = 0

    async def __call__(self) -> Answer:
        self.calls += 1
        number = self.calls
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Answer(f"answer {number}")


class Later(Clock):
    """Redis's time when it was first asked for, and what a test lets pass: however long the test takes."""

    passed = 0.0
    _began: float | None = None

    def now(self) -> float:
        if self._began is None and self.known:
            self._began = super().now()
        return (super().now() if self._began is None else self._began) + self.passed


Open = Callable[..., Cache[Answer]]


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()
