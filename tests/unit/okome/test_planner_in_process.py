"""The example planner in the test's own process: what it keeps, and what it leaves behind."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
import uvicorn
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Budgets, Bytes, Cache, CachePolicy, Lease, Ledger
from okome.gpu import GpuStandIn
from okome.keys import digest
from okome.openai import ChatRequest, Message
from okome.planner import OverBudgetError, Planner, _Job, default_rules
from tests.ports import free_port
from tests.unit.okome.test_planner import QUESTION, SUBJECT


@pytest.mark.anyio
@pytest.mark.parametrize("why", ["hang-up", "lost meanwhile"])
async def test_what_did_not_start_costs_nothing(
    redis: Redis, server: RedisServer, tmp_path: Path, why: str
) -> None:
    class Unlucky(Budgets):
        """Redis loses the counters between the two calls, and another takes all there is."""

        async def start(self, lease: Lease) -> bool:
            server.admin.delete(*server.matching("okome:*:cap:*"))
            other = (await self.reserve(SUBJECT, {"tokens": 100})).lease
            assert other is not None
            assert await super().start(other)
            return await super().start(lease)

    ledger = Ledger(tmp_path / "ledger.sqlite")
    kind = Budgets if why == "hang-up" else Unlucky
    budgets = kind(redis, rules=default_rules(10, 100), ledger=ledger, redis_timeout=30)
    planner = Planner(Cache(redis, namespace="n", codec=Bytes()), budgets, GpuStandIn())
    chat = ChatRequest("m", [Message("user", "hello")])
    job = _Job(planner, chat, SUBJECT)
    admission = planner.admit(job)
    if why == "hang-up":
        writer = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(admission)
        for _ in range(2000):
            await asyncio.sleep(0.01)
            if job.decision is not None:  # reserved: now the start waits for the ledger
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.close()
    else:
        with pytest.raises(OverBudgetError):
            await admission
    assert len(planner._settlements) == 1
    await asyncio.wait_for(asyncio.gather(*planner._settlements), 20)
    quotas = (await budgets.reserve(SUBJECT, {"requests": 0, "tokens": 0})).quotas
    assert [quota.remaining for quota in quotas] == [10, 100 if why == "hang-up" else 0]
    await budgets.aclose()
    ledger.close()


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
    server = uvicorn.Server(uvicorn.Config(planner.app, host="127.0.0.1", port=port, log_level="warning"))
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
        await server.until(lambda: not server.planner._settlements)
        assert gpu.counts["tokens"] < 5
        spent = gpu.counts["tokens"] + 3 * gpu.counts["requests"]
        assert await free(budgets) == 10_000 - spent


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
            await server.until(lambda: not server.cache._flights and not server.planner._settlements)
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
async def test_a_lost_state_is_503_and_says_when_to_ask_again(
    redis: Redis, ledger: Ledger, server: RedisServer
) -> None:
    budgets = Budgets(redis, rules=default_rules(1000, 10_000), ledger=ledger, redis_timeout=30)
    async with (
        in_process(redis, GpuStandIn(), PATIENT, budgets) as planner,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        ledger._thread.submit(ledger._connection.execute, "DROP TABLE entries").result()
        answer = await client.post(f"http://127.0.0.1:{planner.port}/v1/chat/completions", json=QUESTION)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert budgets.counts["state_lost"] == 1
