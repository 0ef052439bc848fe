"""An example orchestrator: an OpenAI-style API, with the cache and the budgets in front of a stand-in for the
GPU.

    OKOME_REDIS_URL=redis://okome:...@192.168.86.19:6379 python -m okome.planner --listen 192.168.86.25:8000

It is what an orchestrator would do with the library, and what the lab runs at the orchestrator's address. A
hit costs no tokens: budgets are charged where something is computed.
"""

import argparse
import asyncio
import hashlib
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from okome import (
    Budgets,
    Bytes,
    Cache,
    CachedStream,
    CachePolicy,
    Cap,
    ComputeCancelledError,
    Directives,
    Ledger,
    Metered,
    NotCachedError,
    OverBudgetError,
    OverloadedError,
    Period,
    Rate,
    RememberedError,
    Rule,
    connect,
    is_deterministic,
    key_of,
    openai,
)
from okome.gpu import GpuStandIn
from okome.keys import digest
from okome.openai import ChatRequest

MAX_BODY = 1024 * 1024  # bytes of a request
LARGE = 64 * 1024  # bytes of a request above which to read it and to make its key leaves the event loop alone
KEEP_ALIVE = (
    75  # s; longer than nginx keeps its idle upstream connections (60 s), or a POST meets a closed one
)
HUNG_UP = 499  # as nginx calls it; nobody is left to read it

_ASSETS = {
    "app.css": ("text/css", b"body { font-family: system-ui; margin: 2rem }\n"),
    "app.js": ("text/javascript", b"console.log('okome')\n"),
    "logo.svg": (
        "image/svg+xml",
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="3"/></svg>\n',
    ),
}


class Counts(Collector):
    """A Counter of the library as a Prometheus counter labelled by event: never by user, key or model."""

    def __init__(self, name: str, text: str, counts: Counter[str]) -> None:
        self._name, self._text, self._counts = name, text, counts

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=["event"])
        for event, count in sorted(self._counts.items()):
            family.add_metric([event], count)
        yield family


class _Events(StreamingResponse):
    """A stream that is closed whatever happens: a client that is gone before the first chunk is sent must not
    keep its place, or nothing ever stops the work.
    """

    def __init__(self, stream: CachedStream) -> None:
        headers = stream.headers() | {"Cache-Control": "no-store"}
        super().__init__(stream, media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


class Planner:
    """The orchestrator's own logic; `app` is its ASGI application."""

    def __init__(self, cache: Cache[bytes], budgets: Budgets, gpu: GpuStandIn) -> None:
        self._cache = cache
        self._budgets = budgets
        self._gpu = gpu
        self._registry = CollectorRegistry()
        self._registry.register(Counts("okome_cache", "What the cache did.", cache.counts))
        self._registry.register(Counts("okome_budget", "What the budgets did.", budgets.counts))
        self._registry.register(Counts("okome_gpu", "What reached the GPU.", gpu.counts))
        self._seconds = Histogram(
            "okome_chat_seconds", "Until the first byte of an answer.", ["cache"], registry=self._registry
        )
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/health", self.health),
                Route("/assets/{name}", self.asset),
                Route("/metrics", self.metrics),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._budgets, self._cache:
            yield

    async def chat(self, request: Request) -> Response:
        began = time.monotonic()
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    return _error(413, f"a request has at most {MAX_BODY} bytes")
        except ClientDisconnect:
            return Response(status_code=HUNG_UP)
        user = digest(request.headers.get("authorization", "anonymous"))
        try:
            if len(body) > LARGE:
                asked, chat, key = await asyncio.to_thread(_understood, bytes(body), user)
            else:
                asked, chat, key = _understood(bytes(body), user)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            return _error(400, str(error))
        except RecursionError:
            return _error(400, "the request is nested too deeply")
        directives = Directives.parse(request.headers.get("cache-control"))
        if not is_deterministic(asked):
            directives = replace(directives, no_store=True)  # the same question may have another answer
        estimate = {"requests": 1, "tokens": chat.prompt_tokens + chat.max_tokens}
        metered = Metered(self._budgets, {"user": user, "model": chat.model}, estimate)
        job = _Job(self._gpu, chat)
        tags = [f"model:{chat.model}"]
        try:
            answer = await _unless_hung_up(request, self._answer(job, metered, key, tags, directives))
        except OverBudgetError as error:
            return _error(error.decision.status_code, str(error), error.decision.headers())
        except NotCachedError as error:
            return _error(504, str(error))
        except (OverloadedError, RememberedError, ComputeCancelledError) as error:
            return _error(503, str(error), {"Retry-After": "1"})
        except TimeoutError:
            return _error(504, "the computation took too long")
        if answer is None:
            return Response(status_code=HUNG_UP)
        answer.headers.update(metered.headers())
        self._seconds.labels(answer.headers["X-OKOME-Cache"]).observe(time.monotonic() - began)
        return answer

    async def _answer(
        self, job: "_Job", metered: Metered, key: str, tags: list[str], directives: Directives
    ) -> Response:
        """A hit costs nothing, and neither does another's answer: `metered` is asked where something is computed."""
        if not job.chat.stream:
            cached = await self._cache.get_or_compute(
                key,
                metered.compute(job.complete),
                tags=tags,
                directives=directives,
                keep=openai.is_worth_keeping,
            )
            return Response(cached.value, media_type="application/json", headers=cached.headers())
        stream = await self._cache.stream(
            key,
            metered.stream(job.events),
            tags=tags,
            directives=directives,
            complete=openai.is_stream_worth_keeping,
        )
        return _Events(stream)

    async def health(self, _: Request) -> Response:
        """Up even without Redis: then everything is computed."""
        return JSONResponse({"status": "ok", "redis": "ok" if self._cache.available else "unavailable"})

    async def asset(self, request: Request) -> Response:
        found = _ASSETS.get(request.path_params["name"])
        if found is None:
            return _error(404, "no such asset")
        media_type, content = found
        tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
        headers = {"Cache-Control": "public, max-age=3600", "ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Job:
    """One request on its way to the GPU, if it gets there."""

    def __init__(self, gpu: GpuStandIn, chat: ChatRequest) -> None:
        self._gpu = gpu
        self.chat = chat

    async def _generate(self, spent: Counter[str]) -> AsyncGenerator[str, None]:
        spent["tokens"] = self.chat.prompt_tokens
        async with aclosing(self._gpu.tokens(self.chat)) as tokens:
            async for token in tokens:
                spent["tokens"] += 1
                yield token

    async def complete(self, spent: Counter[str]) -> bytes:
        tokens = [token async for token in self._generate(spent)]
        return openai.completion(self.chat, tokens)

    async def events(self, spent: Counter[str]) -> AsyncIterator[bytes]:
        begin = openai.frame(self.chat, "chat.completion.chunk")
        async with aclosing(self._generate(spent)) as tokens:
            async for token in tokens:
                yield openai.event(begin, token)
        yield openai.event(begin, None)
        yield openai.DONE


def _understood(body: bytes, user: str) -> tuple[dict[str, Any], ChatRequest, str]:
    """What is asked for, as it is and as the planner reads it, and its key. Raises what means 400."""
    asked: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    return asked, msgspec.convert(asked, ChatRequest), key_of(asked, tenant=user)


async def _unless_hung_up(request: Request, answering: Awaitable[Response]) -> Response | None:
    """Its answer; or None, and it is cancelled, if the client hangs up before there is one."""
    work = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_hang_up(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        while not work.done():  # more than once: redis-py may lose a cancellation
            work.cancel()
            await asyncio.wait({work}, timeout=1)
            if work.cancelled():
                return None
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(openai.error(status, text), status, headers=dict(headers or {}))


def default_rules(requests_per_minute: int, tokens_per_day: int) -> list[Rule]:
    """What one API key may ask for."""
    return [
        Rate(name="requests-per-minute", by=("user",), unit="requests", limit=requests_per_minute, per=60),
        Cap(name="tokens-per-day", by=("user",), unit="tokens", limit=tokens_per_day, period=Period.DAY),
    ]


def _redis_url(arguments: argparse.Namespace) -> str | Path:
    """Never with a password from the command line, which every user of the machine can read."""
    file: Path | None = arguments.redis_url_file
    if file is not None:
        return file
    url: str | None = arguments.redis_url
    if url is not None:
        if "@" in url:
            raise ValueError(
                "a password does not belong on a command line: use OKOME_REDIS_URL or --redis-url-file"
            )
        return url
    return os.environ.get("OKOME_REDIS_URL", "redis://127.0.0.1:6379")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is not understood may be a URL with a password in it: it goes to no log."""
        if "://" in message:
            message = (
                "a URL is given by --redis-url-file, OKOME_REDIS_URL or, without a password, --redis-url"
            )
        super().error(message)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m okome.planner", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 8000), metavar="HOST:PORT")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis-url", help="without a password; else set OKOME_REDIS_URL")
    where.add_argument(
        "--redis-url-file",
        type=Path,
        metavar="FILE",
        help="a file that holds the URL; read again for each connection",
    )
    parser.add_argument("--ledger", type=Path, default=Path("okome-ledger.sqlite"), metavar="FILE")
    parser.add_argument("--latency", type=_positive, default=0.2, metavar="S", help="to the first token")
    parser.add_argument("--tokens-per-second", type=_positive, default=50.0, metavar="N")
    parser.add_argument("--requests-per-minute", type=int, default=600, metavar="N", help="for each API key")
    parser.add_argument("--tokens-per-day", type=int, default=1_000_000, metavar="N", help="for each API key")
    parser.add_argument(
        "--fresh", type=_positive, default=300.0, metavar="S", help="how long an answer is fresh"
    )
    return parser.parse_args(argv)


async def serve(arguments: argparse.Namespace) -> None:
    redis = connect(_redis_url(arguments))
    ledger = Ledger(arguments.ledger)
    try:
        rules = default_rules(arguments.requests_per_minute, arguments.tokens_per_day)
        planner = Planner(
            Cache(redis, namespace="planner", codec=Bytes(), policy=CachePolicy(fresh=arguments.fresh)),
            Budgets(redis, namespace="planner", rules=rules, ledger=ledger),
            GpuStandIn(arguments.latency, arguments.tokens_per_second),
        )
        host, port = arguments.listen
        config = uvicorn.Config(
            planner.app, host=host, port=port, timeout_keep_alive=KEEP_ALIVE, log_level="warning"
        )
        await uvicorn.Server(config).serve()
    finally:
        ledger.close()
        await redis.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 stopped, 2 what was asked for can't be done."""
    try:
        asyncio.run(serve(_arguments(argv)))
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"okome.planner: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
