"""The planner's chat completions: what is asked is understood, looked up, and paid for where it is computed.

A hit costs no tokens: budgets are charged where something is computed.

An ASGI application of its own, not a function that a framework wraps: of a hit most of the time goes into HTTP, and
the layers around such a function cost as much as Redis does.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from prometheus_client import Histogram
from starlette.responses import JSONResponse, Response, StreamingResponse
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
    OkomeError,
    Outcome,
    OverBudgetError,
    OverloadedError,
    RememberedError,
    openai,
)
from okome.hang_up import unless_hung_up
from okome.headers import rate_limit_headers
from okome.keys import digest
from okome.lately import Lately, RawHeaders, encoded
from okome.openai import ApiError, ChatRequest
from okome.question import Question, body_of, header, question_of

_JSON = (b"content-type", b"application/json")
_NO_DIRECTIVES = Directives()
_TOO_LONG = "the computation took too long"
_FAILED = ApiError(
    500,
    "the planner failed",
    code="internal_error",
    headers={"Connection": "close"},  # as uvicorn does after what is raised: no client is to go on with it
)


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


class Chat:
    """POST /v1/chat/completions. `seconds`: until the first byte of an answer, by X-OKOME-Cache."""

    def __init__(self, cache: Cache[bytes], budgets: Budgets, source: Source, seconds: Histogram) -> None:
        self._cache = cache
        self._budgets = budgets
        self._source = source
        self._seconds = seconds
        self._capped = {rule.name for rule in budgets.rules if isinstance(rule, Cap)}
        self._lately = Lately()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. An error that is none of a client's goes on to the server's log, once the client has been told."""
        answer: _Answer | Response | None
        try:
            answer = await self._answer(scope, receive)
        except ApiError as error:
            answer = refused(error)
        except Exception:
            await failed()(scope, receive, send)
            raise
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> "_Answer | None":
        """None: the client has hung up, and nobody is left to read it."""
        began = time.monotonic()
        body = await body_of(receive)
        if body is None:
            return None
        authorization, cache_control = header(scope, b"authorization"), header(scope, b"cache-control")
        user = digest(authorization or "anonymous")
        question = await question_of(body, user)
        self._source.check(question.chat)
        directives = _NO_DIRECTIVES if cache_control is None else Directives.parse(cache_control)
        if not question.is_deterministic:
            directives = replace(directives, no_store=True)  # the same question may have another answer
        job = _Job(self._source, self._budgets, question, {"user": user, "model": question.chat.model})
        looking = self._stream(job, directives) if question.chat.stream else self._whole(job, directives)
        try:
            found = await unless_hung_up(receive, looking)
        except OverBudgetError as error:
            raise self._over_budget(error) from None
        except NotCachedError as error:
            raise ApiError(504, str(error), code="not_cached") from None
        except (OverloadedError, RememberedError, ComputeCancelledError) as error:
            raise ApiError(503, str(error), headers={"Retry-After": "1"}) from None
        except TimeoutError:
            raise ApiError(504, _TOO_LONG, code="timeout") from None
        if found is None:
            return None
        answer, headers = found
        if job.decision is not None:
            self._lately.heard(user, job.decision)
        answer.headers += encoded(headers)
        left = self._lately.headers(user)
        answer.headers += await self._ask_what_is_left(job.subject) if left is None else left
        self._seconds.labels(headers["X-OKOME-Cache"]).observe(time.monotonic() - began)
        return answer

    async def _whole(self, job: "_Job", directives: Directives) -> "tuple[_Answer, dict[str, str]]":
        cached = await self._cache.get_or_compute(
            job.question.key,
            job.complete,
            tags=job.question.tags,
            directives=directives,
            keep=openai.is_worth_keeping,
        )
        return _Whole(openai.delivered(cached.value)), cached.headers()

    async def _stream(self, job: "_Job", directives: Directives) -> "tuple[_Answer, dict[str, str]]":
        stream = await self._cache.stream(
            job.question.key,
            job.events,
            tags=job.question.tags,
            directives=directives,
            complete=openai.is_stream_worth_keeping,
        )
        return _Events(stream, job.question.chat.include_usage), stream.headers()

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

    async def _ask_what_is_left(self, subject: Mapping[str, str]) -> RawHeaders:
        """A reservation of nothing, for an answer that cost nothing to a user of whom nothing is known."""
        decision = await self._budgets.reserve(subject, {"requests": 0, "tokens": 0})
        self._lately.heard(subject["user"], decision)
        return encoded(rate_limit_headers(decision.quotas))


class _Job:
    """One request on its way to the source, if it gets there. What it costs is `subject`'s."""

    def __init__(
        self, source: Source, budgets: Budgets, question: Question, subject: Mapping[str, str]
    ) -> None:
        self._source = source
        self._budgets = budgets
        self.question = question
        self.subject = subject
        self._metered: Metered | None = None

    @property
    def decision(self) -> Decision | None:
        """Of the budgets, if they were asked: not for a hit, nor for another's answer."""
        return None if self._metered is None else self._metered.decision

    def _meter(self) -> Metered:
        self._metered = Metered(self._budgets, self.subject, self.question.estimate)
        return self._metered

    async def complete(self) -> bytes:
        asked, chat = self.question.asked, self.question.chat
        return await self._meter().compute(lambda spent: self._source.complete(asked, chat, spent))()

    def events(self) -> AsyncIterator[bytes]:
        asked, chat = self.question.asked, self.question.chat
        return self._meter().stream(lambda spent: self._source.events(asked, chat, spent))()


def refused(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, headers=error.headers)


def failed() -> Response:
    """What it was goes to the log, not to the client."""
    return refused(_FAILED)


class _Answer(ABC):
    """ASGI. `headers`: some may be added until then."""

    headers: RawHeaders

    @abstractmethod
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class _Whole(_Answer):
    """An answer in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.headers = [_JSON, (b"content-length", b"%d" % len(body))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self._body})


class _Events(_Answer):
    """A stream that is closed whatever happens: a client that is gone before the first chunk is sent must not
    keep its place, or nothing ever stops the work.
    """

    def __init__(self, stream: CachedStream, include_usage: bool) -> None:
        self._stream = stream
        self._include_usage = include_usage
        self.headers = [(b"cache-control", b"no-store")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = StreamingResponse(_shown(self._stream, self._include_usage), media_type="text/event-stream")
        shown.raw_headers += self.headers
        try:
            await shown(scope, receive, send)
        finally:
            await self._stream.aclose()


async def _shown(stream: CachedStream, include_usage: bool) -> AsyncIterator[bytes]:
    delivery = openai.Delivery(include_usage)
    try:
        async for chunk in stream:
            yield delivery.shown(chunk)
    except ApiError as error:
        yield error.event()
    except TimeoutError:
        yield ApiError(504, _TOO_LONG, code="timeout").event()
    except (OkomeError, ConnectionAbortedError) as error:  # closed, or given up by whoever had begun it
        yield ApiError(503, str(error), code="stream_broke_off").event()
    except Exception:
        yield _FAILED.event()  # the client is told first
        raise
