"""The example planner in the test's own process: what it keeps, and what it leaves behind."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

import httpx
import pytest
import uvicorn
from redis.asyncio import Redis

from bench.ports import free_port
from bench.redis_server import RedisServer
from okome import Budgets, Bytes, Cache, CachePolicy, ComputeCancelledError, Ledger, keys, openai
from okome.api import Planner
from okome.gpu import GpuStandIn
from okome.keys import digest
from okome.openai import ApiError, ChatRequest
from okome.planner import default_rules
from tests.unit.okome.test_planner import QUESTION
from tests.unit.okome.waiting import settled


class InProcess:
    """The application behind a real socket, in the test's own process: its inner counts can be looked at."""

    def __init__(self, planner: Planner, cache: Cache[bytes], port: int) -> None:
        self.planner, self.cache, self.port = planner, cache, port
        self.body = json.dumps({**QUESTION, "stream": True}).encode()

    async def connect(self, body: bytes | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that has asked, and reads nothing yet."""
        body = self.body if body is None else body
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: okome\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return reader, writer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  # of the server's state, which has no event to wait for
                await asyncio.sleep(0.005)


@asynccontextmanager
async def in_process(
    redis: Redis, gpu: GpuStandIn, policy: CachePolicy, budgets: Budgets
) -> AsyncIterator[InProcess]:
    cache = Cache(redis, namespace="in-process", codec=Bytes(), policy=policy)
    planner, port = Planner(cache, budgets, gpu), free_port()
    server = uvicorn.Server(uvicorn.Config(planner, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(60):
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
            yield InProcess(planner, cache, port)
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 30)


PATIENT = CachePolicy(redis_timeout=30, write_timeout=30)


async def free(budgets: Budgets) -> int:
    """Tokens that are neither reserved nor spent."""
    subject = {"user": digest("anonymous"), "model": "rice-7b"}
    (quota,) = (await budgets.reserve(subject, {"tokens": 0})).quotas
    return quota.remaining


@pytest.mark.anyio
@pytest.mark.parametrize("reader", ["none", "another"])
async def test_who_hangs_up_at_once_leaves_nothing_behind(redis: Redis, ledger: Ledger, reader: str) -> None:
    """Neither a place in a stream, nor a computation, nor a reservation."""
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    gpu = GpuStandIn(latency=0.01, tokens_per_second=0.5)
    async with in_process(redis, gpu, PATIENT, budgets) as server:
        cache = server.cache
        if reader == "another":  # then what others ask for has begun already
            _, patient = await server.connect()
            await server.until(lambda: gpu.counts["tokens"] == 1)
        for _ in range(20):
            _, writer = await server.connect()
            writer.close()
            await asyncio.sleep(0.002)
        if reader == "another":
            (flight,) = cache._flights.values()
            assert flight.tee is not None
            tee = flight.tee
            await server.until(lambda: flight.waiters == len(tee._positions) == 1)
            assert gpu.counts["requests"] == 1
            patient.close()
        await server.until(lambda: not cache._flights and not cache._tasks)
        await server.until(lambda: not budgets._tasks)
        # The last of those who have hung up may not even have been read by now.
        async with asyncio.timeout(60):
            while await free(budgets) != 10_000 - gpu.counts["tokens"] - 3 * gpu.counts["requests"]:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
        assert gpu.counts["tokens"] < 5


@pytest.mark.anyio
async def test_hanging_up_before_the_first_byte_stops_the_work(redis: Redis, ledger: Ledger) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    gpu = GpuStandIn(latency=3600)
    async with in_process(redis, gpu, PATIENT, budgets) as server:
        for body in (server.body, json.dumps(QUESTION).encode()):
            before = gpu.counts["requests"]
            _, writer = await server.connect(body)
            await server.until(lambda before=before: gpu.counts["requests"] == before + 1)  # type: ignore[misc]
            writer.close()
            await server.until(lambda: not server.cache._flights and not budgets._tasks)
        assert gpu.counts["tokens"] == 0
        assert server.cache.counts["stored"] == 0
        assert await free(budgets) == 10_000 - 2 * 3


class Unwell(GpuStandIn):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def tokens(self, request: ChatRequest) -> NoReturn:
        raise self.error


@pytest.mark.anyio
async def test_work_that_is_cancelled_from_within_is_503(redis: Redis, ledger: Ledger) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    async with (
        in_process(redis, Unwell(asyncio.CancelledError()), PATIENT, budgets) as server,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        for stream in (False, True):
            answer = await client.post(
                f"http://127.0.0.1:{server.port}/v1/chat/completions", json={**QUESTION, "stream": stream}
            )
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.anyio
async def test_a_failure_of_its_own_is_json_that_tells_nothing_of_it(redis: Redis, ledger: Ledger) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    async with (
        in_process(redis, Unwell(KeyError("inner")), PATIENT, budgets) as planner,
        talking(planner) as client,
    ):
        answer = await client.post("/v1/chat/completions", json=QUESTION)
        assert answer.status_code == 500
        said = {"message": "the planner failed", "type": "server_error", "param": None}
        assert answer.json() == {"error": {**said, "code": "internal_error"}}
        assert answer.headers["Connection"] == "close"  # or the client's next request meets a closed one


class Halting(GpuStandIn):
    """Fails when the beginning is out."""

    def __init__(self, error: Exception) -> None:
        super().__init__(latency=0.001)
        self.error = error

    async def tokens(self, request: ChatRequest) -> AsyncGenerator[str, None]:
        yield "so far "
        raise self.error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("inner"), "internal_error"),
        (TimeoutError(), "timeout"),
        (ComputeCancelledError("the cache was closed"), "stream_broke_off"),
        (ApiError(502, "out of memory", code="upstream_unexpected"), "upstream_unexpected"),
    ],
)
async def test_a_failure_amid_a_stream_is_its_last_event(
    redis: Redis, ledger: Ledger, error: Exception, code: str
) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    async with (
        in_process(redis, Halting(error), PATIENT, budgets) as planner,
        talking(planner) as client,
        client.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as answer,
    ):
        assert answer.status_code == 200
        said = b""
        with suppress(
            httpx.RemoteProtocolError
        ):  # what is nobody's error but ours ends the connection as well
            async for part in answer.aiter_bytes():
                said += part
        begin, last = said.decode().strip().split("\n\n")
        assert "so far" in begin
        told = json.loads(last.removeprefix("data: "))["error"]
        assert (set(told), told["code"]) == ({"message", "type", "param", "code"}, code)
        assert "inner" not in last


@pytest.mark.anyio
async def test_a_lost_state_is_503_and_says_when_to_ask_again(
    redis: Redis, ledger: Ledger, server: RedisServer
) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    async with (
        in_process(redis, GpuStandIn(), PATIENT, budgets) as planner,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        ledger._thread.submit(lambda: ledger._connected().execute("DROP TABLE entries")).result()
        answer = await client.post(f"http://127.0.0.1:{planner.port}/v1/chat/completions", json=QUESTION)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert budgets.counts["state_lost"] == 1


def talking(server: InProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_truncated_or_filtered_answer_is_not_kept(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stream: bool, reason: str
) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    gpu = GpuStandIn(latency=0.001, tokens_per_second=1e6)
    whole = (openai.completion, openai.event)

    def cut(original: Callable[..., bytes]) -> Callable[..., bytes]:
        return lambda *arguments: original(*arguments).replace(
            b'"finish_reason":"stop"', f'"finish_reason":"{reason}"'.encode()
        )

    async with in_process(redis, gpu, PATIENT, budgets) as planner, talking(planner) as client:
        monkeypatch.setattr(openai, "completion", cut(whole[0]))
        monkeypatch.setattr(openai, "event", cut(whole[1]))
        for _ in range(2):
            answer = await client.post("/v1/chat/completions", json={**QUESTION, "stream": stream})
            assert (answer.status_code, answer.headers["X-OKOME-Cache"]) == (200, "MISS")
            assert reason in answer.text
            await settled(planner.cache)
        monkeypatch.undo()
        for status in ("MISS", "HIT"):
            answer = await client.post("/v1/chat/completions", json={**QUESTION, "stream": stream})
            assert answer.headers["X-OKOME-Cache"] == status
            await settled(planner.cache)


@pytest.mark.anyio
@pytest.mark.parametrize(("words", "aside"), [(10, False), (50_000, True)])
async def test_a_large_request_is_read_and_its_key_made_beside_the_event_loop(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, words: int, aside: bool
) -> None:
    made: list[bool] = []

    def key_of(*arguments: Any, **options: Any) -> str:
        made.append(threading.current_thread() is not threading.main_thread())
        return keys.key_of(*arguments, **options)

    monkeypatch.setattr("okome.question.key_of", key_of)
    budgets = Budgets(redis, rules=default_rules(1000, 100_000), ledger=ledger, redis_timeout=30)
    gpu = GpuStandIn(latency=0.001, tokens_per_second=1e6)
    async with in_process(redis, gpu, PATIENT, budgets) as planner, talking(planner) as client:
        question = {**QUESTION, "messages": [{"role": "user", "content": "word " * words}]}
        answer = await client.post("/v1/chat/completions", json=question)
        assert answer.status_code == 200
    assert made == [aside]
