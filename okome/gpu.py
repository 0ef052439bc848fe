"""A stand-in for the GPU: it takes its time, and its words mean nothing."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from okome import openai
from okome.openai import ApiError, ChatRequest

MAX_TOKENS = 4096  # of an answer
NAME = "okome-stand-in"  # it answers to any other, too
_TEXT = """
a rice bowl holds more than it shows and every grain was counted before the water came to boil so the cook
waits and the lid stays on while steam finds its own way out
"""
_WORDS = tuple(_TEXT.split())


class GpuStandIn:
    """Answers as a GPU would: after `latency` seconds, then `tokens_per_second`; the same text for the same
    request. All choices (`n`) are the same; a tool that tool_choice wants is called, without arguments.
    """

    def __init__(self, latency: float = 0.2, tokens_per_second: float = 50.0) -> None:
        self._latency = latency
        self._pause = 1 / tokens_per_second
        self.counts: Counter[str] = Counter()

    def check(self, chat: ChatRequest) -> None:
        """Raises ApiError of what it can't do."""
        if chat.output_tokens > MAX_TOKENS:
            name = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
            raise ApiError(400, f"an answer has at most {MAX_TOKENS} tokens", param=name)
        for at, message in enumerate(chat.messages):
            for part in message.content if isinstance(message.content, list) else ():
                if part.type not in ("text", "refusal"):
                    raise ApiError(
                        400,
                        f"a part of type {part.type!r} is not understood: this model reads text alone",
                        param=f"messages[{at}].content",
                    )
        _wanted_tool(chat)

    async def complete(self, _: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]) -> bytes:
        words = [word async for word in self._generate(chat, spent)]
        tokens = len(words) * chat.choices
        call = _wanted_tool(chat)
        if call is not None:
            return openai.completion(chat, {"content": None, "tool_calls": [call]}, "tool_calls", tokens)
        return openai.completion(chat, {"content": "".join(words).rstrip()}, "stop", tokens)

    async def events(
        self, _: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]
    ) -> AsyncIterator[bytes]:
        begin, call, tokens = openai.frame(chat, "chat.completion.chunk"), _wanted_tool(chat), 0
        async with aclosing(self._generate(chat, spent)) as words:
            async for word in words:
                delta: dict[str, Any] = {} if tokens else {"role": "assistant"}
                tokens += chat.choices
                if call is None:
                    yield openai.event(begin, delta | {"content": word}, None, chat.choices)
                elif delta:
                    calls = [{"index": 0, **call}]
                    yield openai.event(begin, delta | {"tool_calls": calls}, None, chat.choices)
        yield openai.event(begin, {}, "stop" if call is None else "tool_calls", chat.choices)
        yield openai.usage_event(begin, openai.usage(chat, tokens))
        yield openai.DONE

    async def models(self) -> list[dict[str, Any]]:
        return [{"id": NAME, "object": "model", "created": 0, "owned_by": "okome"}]

    async def aclose(self) -> None:
        """It holds nothing."""

    async def _generate(self, chat: ChatRequest, spent: Counter[str]) -> AsyncGenerator[str, None]:
        spent["tokens"] = chat.prompt_tokens
        async with aclosing(self.tokens(chat)) as tokens:
            async for token in tokens:
                spent["tokens"] += chat.choices
                yield token

    async def tokens(self, request: ChatRequest) -> AsyncGenerator[str, None]:
        self.counts["requests"] += 1
        await asyncio.sleep(self._latency)
        seed = hashlib.blake2b(msgspec.json.encode([request.model, request.messages])).digest()
        begin = time.monotonic()
        for n in range(request.output_tokens):
            # By the schedule and not by a sleep each: so the rate holds for short pauses too.
            await asyncio.sleep(max(0.0, begin + n * self._pause - time.monotonic()))
            self.counts["tokens"] += 1
            yield _WORDS[(seed[n % len(seed)] + n) % len(_WORDS)] + " "


def _wanted_tool(chat: ChatRequest) -> dict[str, Any] | None:
    """The call that `tool_choice` wants. The id is the same for the same request, as the words are."""
    wanted = chat.tool_choice
    if wanted is None or wanted in ("none", "auto"):
        return None
    names = [_function_of(tool) for tool in chat.tools or ()]
    name = _function_of(wanted) if isinstance(wanted, dict) else next(iter(names), None)
    if name is None or name not in names:
        raise ApiError(400, "tool_choice names none of the functions in tools", param="tool_choice")
    identity = hashlib.blake2b(msgspec.json.encode(chat), digest_size=12).hexdigest()
    return {"id": f"call_{identity}", "type": "function", "function": {"name": name, "arguments": "{}"}}


def _function_of(tool: Mapping[str, Any]) -> str | None:
    """Its name, if it is one and well-formed."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
