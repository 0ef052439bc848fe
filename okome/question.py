"""A request for a chat completion: read, understood, and its key."""

import asyncio
from functools import lru_cache
from typing import Any

import msgspec
from starlette.types import Receive, Scope

from okome import is_deterministic, key_of, openai
from okome.openai import ApiError, ChatRequest

MAX_BODY = 1024 * 1024  # bytes of a request
LARGE = 64 * 1024  # bytes of a request above which to read it and to make its key leaves the event loop alone
_SMALL, _QUESTIONS = 4 * 1024, 256  # bytes of a request, and how many of the last ones are known by heart


class Question(msgspec.Struct, frozen=True):
    """A request as it is and as the planner reads it. `estimate`: what answering it is reserved for."""

    asked: dict[str, Any]
    chat: ChatRequest
    key: str
    tags: tuple[str, ...]
    estimate: dict[str, int]
    is_deterministic: bool


async def body_of(receive: Receive) -> bytes | None:
    """None: the client has hung up."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise ApiError(413, f"a request has at most {MAX_BODY} bytes")
        if not message.get("more_body"):
            return bytes(body)


def header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value, "latin-1")
    return None


async def question_of(body: bytes, user: str) -> Question:
    try:
        if len(body) > LARGE:
            return await asyncio.to_thread(_understood, body, user)
        return _remembered(body, user) if len(body) <= _SMALL else _understood(body, user)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise openai.invalid(error) from None
    except RecursionError:
        raise ApiError(400, "the request is nested too deeply") from None


def _understood(body: bytes, user: str) -> Question:
    """Raises what means 400."""
    asked: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    chat = msgspec.convert(asked, ChatRequest)
    tokens = chat.prompt_tokens + chat.output_tokens * chat.choices
    return Question(
        asked,
        chat,
        key_of(openai.significant(asked), tenant=user),
        (f"model:{chat.model}",),
        {"requests": 1, "tokens": tokens},
        is_deterministic(asked),
    )


_remembered = lru_cache(_QUESTIONS)(_understood)
"""Who asks for what is in the cache has mostly sent the same bytes before."""
