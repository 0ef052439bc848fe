"""A stand-in for the GPU: it takes its time, and its words mean nothing."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator

import msgspec

from okome.openai import ChatRequest

_TEXT = """
a rice bowl holds more than it shows and every grain was counted before the water came to boil so the cook
waits and the lid stays on while steam finds its own way out
"""
_WORDS = tuple(_TEXT.split())


class GpuStandIn:
    """Answers as a GPU would: after `latency` seconds, then `tokens_per_second`; the same text for the same
    request.
    """

    def __init__(self, latency: float = 0.2, tokens_per_second: float = 50.0) -> None:
        self._latency = latency
        self._pause = 1 / tokens_per_second
        self.counts: Counter[str] = Counter()

    async def tokens(self, request: ChatRequest) -> AsyncGenerator[str, None]:
        self.counts["requests"] += 1
        await asyncio.sleep(self._latency)
        seed = hashlib.blake2b(msgspec.json.encode([request.model, request.messages])).digest()
        begin = time.monotonic()
        for n in range(request.max_tokens):
            # By the schedule and not by a sleep each: so the rate holds for short pauses too.
            await asyncio.sleep(max(0.0, begin + n * self._pause - time.monotonic()))
            self.counts["tokens"] += 1
            yield _WORDS[(seed[n % len(seed)] + n) % len(_WORDS)] + " "
