"""The planner's application: OpenAI's API, with the cache and the budgets in front of whatever answers.

A hit costs no tokens: budgets are charged where something is computed.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from okome import (
    Budgets,
    Cache,
    CachedStream,
    Cap,
    ComputeCancelledError,
    Decision,
    Directives,
    Metered,
    NotCachedError,
    Outcome,
    OverBudgetError,
    OverloadedError,
    RememberedError,
    is_deterministic,
    key_of,
    openai,
)
from okome.budget import Mode
from okome.headers import Quota, rate_limit_headers
from okome.keys import digest
from okome.openai import ApiError, ChatRequest

MAX_BODY = 1024 * 1024  # bytes of a request
LARGE = 64 * 1024  # bytes of a request above which to read it and to make its key leaves the event loop alone
HEALTH = 0.1  # s for which /health waits for what it asks; CN00's probe has 0.3 s in all
HUNG_UP = 499  # as nginx calls it; nobody is left to read it
_USERS = 4096  # of whom it is known what the budgets said last

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


class _Modes(Collector):
    """Who decides over the budgets now: 1 for one mode, 0 for the others."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("okome_budget_mode", "Who decides over the budgets.", labels=["mode"])
        for mode in Mode:
            family.add_metric([mode], mode is self._budgets.mode)
        yield family


class _Events(StreamingResponse):
    """A stream that is closed whatever happens: a client that is gone before the first chunk is sent must not
    keep its place, or nothing ever stops the work.
    """

    def __init__(self, stream: CachedStream, include_usage: bool) -> None:
        headers = stream.headers() | {"Cache-Control": "no-store"}
        super().__init__(_shown(stream, include_usage), media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


async def _shown(stream: CachedStream, include_usage: bool) -> AsyncIterator[bytes]:
    delivery = openai.Delivery(include_usage)
    try:
        async for chunk in stream:
            yield delivery.shown(chunk)
    except ApiError as error:
        yield error.event()


class Source(Protocol):
    """What answers if nobody has asked before: the stand-in, or an upstream. What it refuses is an ApiError. What it
    answers has no id (`okome.openai`). `spent`: as for Metered.
    """

    counts: Counter[str]

    def check(self, chat: ChatRequest) -> None: ...

    async def complete(self, asked: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]) -> bytes: ...

    def events(
        self, asked: Mapping[str, Any], chat: ChatRequest, spent: Counter[str]
    ) -> AsyncIterator[bytes]: ...

    async def models(self) -> list[dict[str, Any]]: ...

    async def aclose(self) -> None: ...


class Planner:
    """The orchestrator's own logic; `app` is its ASGI application."""

    def __init__(self, cache: Cache[bytes], budgets: Budgets, source: Source) -> None:
        self._cache = cache
        self._budgets = budgets
        self._source = source
        self._capped = {rule.name for rule in budgets.rules if isinstance(rule, Cap)}
        self._lately = _Lately()
        self._registry = CollectorRegistry()
        self._registry.register(Counts("okome_cache", "What the cache did.", cache.counts))
        self._registry.register(Counts("okome_budget", "What the budgets did.", budgets.counts))
        self._registry.register(_Modes(budgets))
        self._registry.register(Counts("okome_gpu", "What reached the GPU.", source.counts))
        self._seconds = Histogram(
            "okome_chat_seconds", "Until the first byte of an answer.", ["cache"], registry=self._registry
        )
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/health", self.health),
                Route("/assets/{name}", self.asset),
                Route("/metrics", self.metrics),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _not_served, ApiError: _refused, Exception: _failed},
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            async with self._budgets, self._cache:
                yield
        finally:
            await self._source.aclose()

    async def chat(self, request: Request) -> Response:
        began = time.monotonic()
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise ApiError(413, f"a request has at most {MAX_BODY} bytes")
        except ClientDisconnect:
            return Response(status_code=HUNG_UP)
        user = digest(request.headers.get("authorization", "anonymous"))
        try:
            if len(body) > LARGE:
                asked, chat, key = await asyncio.to_thread(_understood, bytes(body), user)
            else:
                asked, chat, key = _understood(bytes(body), user)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise openai.invalid(error) from None
        except RecursionError:
            raise ApiError(400, "the request is nested too deeply") from None
        self._source.check(chat)
        directives = Directives.parse(request.headers.get("cache-control"))
        if not is_deterministic(asked):
            directives = replace(directives, no_store=True)  # the same question may have another answer
        estimate = {"requests": 1, "tokens": chat.prompt_tokens + chat.output_tokens * chat.choices}
        subject = {"user": user, "model": chat.model}
        metered = Metered(self._budgets, subject, estimate)
        job = _Job(self._source, asked, chat)
        tags = [f"model:{chat.model}"]
        try:
            answer = await _unless_hung_up(request, self._answer(job, metered, key, tags, directives))
        except OverBudgetError as error:
            raise self._over_budget(error) from None
        except NotCachedError as error:
            raise ApiError(504, str(error), code="not_cached") from None
        except (OverloadedError, RememberedError, ComputeCancelledError) as error:
            raise ApiError(503, str(error), headers={"Retry-After": "1"}) from None
        except TimeoutError:
            raise ApiError(504, "the computation took too long", code="timeout") from None
        if answer is None:
            return Response(status_code=HUNG_UP)
        if metered.decision is not None:
            self._lately.heard(user, metered.decision)
        answer.headers.update(metered.headers() or await self._left(user, subject))
        self._seconds.labels(answer.headers["X-OKOME-Cache"]).observe(time.monotonic() - began)
        return answer

    def _over_budget(self, error: OverBudgetError) -> ApiError:
        """A cap is OpenAI's insufficient_quota, which waiting a little does not mend: its clients are told not to try
        again. A rate is its rate_limit_exceeded, of the unit that there is too much of.
        """
        decision, rule = error.decision, error.decision.rule
        headers = decision.headers()
        if decision.outcome is not Outcome.DENIED:
            return ApiError(decision.status_code, str(error), code="budget_unknown", headers=headers)
        if rule in self._capped:
            headers["x-should-retry"] = "false"
            kind, code = "insufficient_quota", "insufficient_quota"
        else:
            units = {quota.name: quota.unit for quota in decision.quotas}
            kind, code = units.get(rule or "", "requests"), "rate_limit_exceeded"
        return ApiError(decision.status_code, str(error), kind=kind, code=code, headers=headers)

    async def _left(self, user: str, subject: Mapping[str, str]) -> dict[str, str]:
        """The headers of an answer that cost nothing: what the last decision left, or a reservation of nothing."""
        if self._lately.quotas(user) is None:
            self._lately.heard(user, await self._budgets.reserve(subject, {"requests": 0, "tokens": 0}))
        return rate_limit_headers(self._lately.quotas(user) or ())

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
            body = openai.delivered(cached.value)
            return Response(body, media_type="application/json", headers=cached.headers())
        stream = await self._cache.stream(
            key,
            metered.stream(job.events),
            tags=tags,
            directives=directives,
            complete=openai.is_stream_worth_keeping,
        )
        return _Events(stream, job.chat.include_usage)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": await self._source.models()})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in await self._source.models():
            if model.get("id") == name:
                return JSONResponse(model)
        raise ApiError(404, f"the model {name!r} is not here", param="model", code="model_not_found")

    async def health(self, _: Request) -> Response:
        """Who decides over the budgets, and what of that is not as it should be. Up (200) as long as anything is
        answered: without Redis by the ledger, without the ledger what is in the cache. 503 without both.
        """
        mode = await self._budgets.look(HEALTH)
        redis = self._cache.available and self._budgets.redis_available
        status = {Mode.REDIS: "ok" if redis else "degraded", Mode.REFUSING: "refusing"}.get(mode, "degraded")
        said = {
            "status": status,
            "mode": mode,
            "redis": "ok" if redis else "unavailable",
            "ledger": self._budgets.ledger_trouble or "ok",
        }
        return JSONResponse(said, 503 if mode is Mode.REFUSING and not redis else 200)

    async def asset(self, request: Request) -> Response:
        found = _ASSETS.get(request.path_params["name"])
        if found is None:
            raise ApiError(404, "no such asset")
        media_type, content = found
        tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
        headers = {"Cache-Control": "public, max-age=3600", "ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    async def metrics(self, _: Request) -> Response:
        await self._budgets.look(HEALTH)
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Job:
    """One request on its way to the source, if it gets there."""

    def __init__(self, source: Source, asked: Mapping[str, Any], chat: ChatRequest) -> None:
        self._source = source
        self._asked = asked
        self.chat = chat

    async def complete(self, spent: Counter[str]) -> bytes:
        return await self._source.complete(self._asked, self.chat, spent)

    def events(self, spent: Counter[str]) -> AsyncIterator[bytes]:
        return self._source.events(self._asked, self.chat, spent)


class _Lately:
    """What the budgets said last to each of the last users."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, tuple[Quota, ...]]] = {}

    def heard(self, user: str, decision: Decision) -> None:
        self._said.pop(user, None)
        self._said[user] = time.monotonic(), decision.quotas
        if len(self._said) > _USERS:
            del self._said[next(iter(self._said))]

    def quotas(self, user: str) -> list[Quota] | None:
        """As they are by now, if nothing was spent meanwhile."""
        if user not in self._said:
            return None
        at, quotas = self._said[user]
        passed = time.monotonic() - at
        return [
            msgspec.structs.replace(quota, reset=quota.reset - passed)
            if quota.reset > passed
            else msgspec.structs.replace(quota, reset=0.0, remaining=quota.limit)
            for quota in quotas
        ]


def _understood(body: bytes, user: str) -> tuple[dict[str, Any], ChatRequest, str]:
    """What is asked for, as it is and as the planner reads it, and its key. Raises what means 400."""
    asked: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    return asked, msgspec.convert(asked, ChatRequest), key_of(openai.significant(asked), tenant=user)


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


def _refused(_: Request, error: Any) -> Response:  # Any: Starlette gives each handler its own kind
    return JSONResponse(error.body, error.status, headers=error.headers)


def _not_served(request: Request, error: Any) -> Response:
    """404 and 405 of the routes."""
    text = f"{request.method} {request.url.path}: {error.detail}"
    return _refused(request, ApiError(error.status_code, text, headers=error.headers))


def _failed(request: Request, error: Exception) -> Response:
    """What it was goes to the log, not to the client."""
    return _refused(request, ApiError(500, "the planner failed", code="internal_error"))
