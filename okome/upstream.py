"""Any OpenAI-compatible server as the source of answers: vLLM, llama.cpp's server, Ollama, another planner.

What they send differs in small things. Usage comes in an event of its own without choices (OpenAI, vLLM, Ollama), with
the last choice (llama.cpp) or with each (vLLM's continuous_usage_stats); errors as {"error": {...}}, flat (older vLLM),
as text, or as `detail` (FastAPI); an error amid a stream as an event, which for vLLM [DONE] follows all the same.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from okome import openai
from okome.openai import ApiError, ChatRequest

CONNECT = 5.0  # s
KEPT = 4.0  # s that a connection is kept for another request; uvicorn, and so vLLM, closes it after 5
MAX_EVENT = 8 * 1024 * 1024  # bytes


class Upstream:
    """`url` with or without /v1; `key` goes into its Authorization and nowhere else; `timeout`: seconds that it may
    send nothing. Raises ValueError for a URL that is none. What it refuses is an ApiError.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 300.0) -> None:
        self._base = _base(url)
        self._key = key
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self.counts: Counter[str] = Counter()

    def check(self, chat: ChatRequest) -> None:
        """The server knows what it can do."""

    async def complete(self, asked: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]) -> bytes:
        async with self._asked("POST", "chat/completions", asked) as response:
            answer = _object(await response.read())
        if "choices" not in answer:
            raise self._refusal(502, answer)
        answer.pop("id", None)
        _charge(answer.get("usage"), spent)
        return msgspec.json.encode(answer)

    async def events(
        self, asked: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]
    ) -> AsyncIterator[bytes]:
        options = {**(asked.get("stream_options") or {}), "include_usage": True}
        last: dict[str, Any] = {}
        usage: Any = None
        async with self._asked("POST", "chat/completions", {**asked, "stream_options": options}) as response:
            spent["tokens"] = chat.prompt_tokens  # until it says better
            async for data in _events(response):
                if data == b"[DONE]":
                    break
                event = _object(data)
                if "error" in event:
                    raise self._refusal(502, event)
                event.pop("id", None)
                last, usage = event, event.pop("usage", None) or usage
                choices = event.get("choices")
                if choices:
                    spent["tokens"] += 1
                    yield openai.encoded(event)
            else:
                raise ApiError(502, "the upstream's stream broke off", code="upstream_broke_off")
        _charge(usage, spent)
        if usage is not None:
            begin: dict[str, Any] = {
                name: last[name] for name in ("object", "created", "model") if name in last
            }
            yield openai.usage_event(begin, usage)
        yield openai.DONE

    async def models(self) -> list[dict[str, Any]]:
        async with self._asked("GET", "models") as response:
            found = _object(await response.read()).get("data")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        """Made at the first use, for it belongs to that event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=self._timeout),
                headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        self.counts["requests"] += 1
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        asking = self._client().request(
            method, self._base / path, data=content, headers=headers, allow_redirects=False
        )
        try:
            async with asking as response:
                if response.status != 200:
                    raise self._refusal(response.status, await response.read(), response.headers)
                yield response
        except TimeoutError:
            self.counts["timeouts"] += 1
            raise ApiError(
                504,
                f"the upstream did not answer within {self._timeout:g} s",
                code="upstream_timeout",
            ) from None
        except aiohttp.ClientError:
            self.counts["unreachable"] += 1
            raise ApiError(
                502,
                "the upstream can't be reached, or broke off",
                code="upstream_unreachable",
                headers={"Retry-After": "1"},
            ) from None

    def _refusal(
        self, status: int, said: bytes | Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> ApiError:
        """In OpenAI's shape. That it refuses the planner's own key is nothing that a client can mend."""
        self.counts["refused"] += 1
        if status in (401, 403):
            return ApiError(502, "the upstream refuses the planner's key", code="upstream_auth")
        if status < 400:
            return ApiError(502, f"the upstream answered {status}", code="upstream_unexpected")
        error: Mapping[str, Any] = {}
        if isinstance(said, bytes):
            try:
                said = msgspec.json.decode(said, type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                said = {}
        inner = said.get("error", said)
        error = inner if isinstance(inner, Mapping) else {"message": inner}
        text = error.get("message") or error.get("detail") or f"the upstream answered {status}"
        text = text if isinstance(text, str) else msgspec.json.encode(text).decode()
        again = (headers or {}).get("retry-after")
        return ApiError(
            status,
            text.replace(self._key, "***") if self._key else text,
            kind=_text(error.get("type")),
            param=_text(error.get("param")),
            code=_text(error.get("code")),
            headers={} if again is None else {"Retry-After": again},
        )


def _base(url: str) -> URL:
    try:
        parsed = urlsplit(url)
        base = URL(url)
    except (ValueError, TypeError, AttributeError):
        raise ValueError("the upstream's URL is not one") from None
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise ValueError("the upstream's URL is http://HOST:PORT or https://HOST, with or without /v1")
    if parsed.username is not None or parsed.password is not None:
        raise ValueError("the upstream's key does not belong in its URL: use a file or OKOME_UPSTREAM_KEY")
    return base if base.path.strip("/") else base / "v1"


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ApiError(502, "the upstream's answer can't be understood", code="upstream_unexpected") from None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _charge(usage: object, spent: Counter[str]) -> None:
    """By what it says; else it stays the estimate."""
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    if isinstance(total, int) and not isinstance(total, bool) and total >= 0:
        spent["tokens"] = total


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of server-sent events, each on a line of its own: so do all of them. llama.cpp used to send an error as
    a field of that name.
    """
    pending = b""
    async for part in response.content.iter_any():
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            if field == b"data":
                yield value.removeprefix(b" ")
            elif field == b"error":
                yield b'{"error":' + value + b"}"
        if len(pending) > MAX_EVENT:
            raise ApiError(502, "the upstream's event is too large", code="upstream_unexpected")
