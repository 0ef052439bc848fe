"""The planner's application: OpenAI's API, with the cache and the budgets in front of whatever answers."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from okome import Budgets, Cache, Mode
from okome.chat import Chat, Source, failed, refused
from okome.openai import ApiError

_CHAT = "/v1/chat/completions"
_SERVED = f"POST {_CHAT} and GET /v1/models are, and /health, /metrics and /assets"
HEALTH = 0.1  # s for which /health waits for what it asks; CN00's probe has 0.3 s in all

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


class Planner:
    """The orchestrator's own logic, an ASGI application."""

    def __init__(self, cache: Cache[bytes], budgets: Budgets, source: Source) -> None:
        self._cache = cache
        self._budgets = budgets
        self._source = source
        self._registry = CollectorRegistry()
        self._registry.register(Counts("okome_cache", "What the cache did.", cache.counts))
        self._registry.register(Counts("okome_budget", "What the budgets did.", budgets.counts))
        self._registry.register(_Modes(budgets))
        self._registry.register(Counts("okome_gpu", "What reached the GPU.", source.counts))
        seconds = Histogram(
            "okome_chat_seconds", "Until the first byte of an answer.", ["cache"], registry=self._registry
        )
        self._chat = Chat(cache, budgets, source, seconds)
        self._routed = Starlette(
            routes=[
                Route(_CHAT, self._chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/health", self.health),
                Route("/assets/{name}", self.asset),
                Route("/metrics", self.metrics),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _not_served, ApiError: _refused, Exception: _failed},
        )
        self._routed.router.redirect_slashes = False  # to an address that a client may not reach us by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. What most requests are for takes no way through Starlette's layers."""
        if scope["type"] == "http" and scope["path"] == _CHAT and scope["method"] == "POST":
            await self._chat(scope, receive, send)
        else:
            await self._routed(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            async with self._budgets, self._cache:
                yield
        finally:
            await self._source.aclose()

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


def _refused(_: Request, error: Any) -> Response:  # Any: Starlette gives each handler its own kind
    return refused(error)


def _not_served(request: Request, error: Any) -> Response:
    """404 and 405 of the routes."""
    asked = f"{request.method[:20]} {request.url.path[:200]}"
    if error.status_code == 404:
        said = ApiError(404, f"{asked} is not served here: {_SERVED}", code="unknown_url")
    else:
        said = ApiError(error.status_code, f"{asked}: {error.detail}", headers=error.headers)
    return refused(said)


def _failed(_: Request, __: Exception) -> Response:
    return failed()
