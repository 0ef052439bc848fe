"""Another server is the master now: no caller sees an error, and all goes on there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.sentinel import SentinelConnectionPool

from bench.ports import free_port
from bench.redis_server import RedisServer
from bench.sentinels import SERVICE, Sentinels
from okome import (
    Budgets,
    Bytes,
    Cache,
    CachePolicy,
    Cap,
    Decision,
    Ledger,
    Outcome,
    Rate,
    Rule,
    Status,
    connect,
    connect_cluster,
    connect_sentinel,
)
from tests.unit.okome.clusters import SPREAD, running_cluster
from tests.unit.okome.proxy import Proxy
from tests.unit.okome.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.anyio

RULES: list[Rule] = [
    Rate(name="rate", by=("user",), unit="requests", limit=1_000_000, per=1),
    Cap(name="cap", by=("user",), unit="tokens", limit=1_000_000),
]


async def answer() -> bytes:
    return b"answer"


# A server that is demoted, and an address that leads to another one


@asynccontextmanager
async def moving(first: RedisServer, folder: Path) -> AsyncIterator[tuple[Proxy, Redis]]:
    async with Proxy(first.socket, folder / "proxy.sock") as proxy:
        client = connect(first.url.replace(str(first.socket), str(proxy.listen)), timeout=30)
        yield proxy, client
        await client.aclose()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    with RedisServer(password="same") as first, RedisServer(password="same") as second:
        yield first, second


@pytest.fixture
def servers(pair: tuple[RedisServer, RedisServer]) -> Iterator[tuple[RedisServer, RedisServer]]:
    for server in pair:
        server.admin.flushall()
    yield pair
    pair[0].admin.replicaof("NO", "ONE")


def demote(server: RedisServer) -> None:
    server.admin.replicaof("127.0.0.1", "1")  # nobody is there, and it goes on answering


async def test_the_cache_follows_an_address_that_moved(
    servers: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    """With every connection that it has, its subscription included."""
    first, second = servers
    policy = CachePolicy(redis_timeout=30, write_timeout=30)
    async with (
        asyncio.timeout(2 * PATIENCE),
        moving(first, tmp_path) as (proxy, client),
        Cache(client, namespace="m", codec=Bytes(), policy=policy) as cache,
    ):
        reads = [cache.get(str(n)) for n in range(5)]
        commands = [client.get(f"okome:{n}") for n in range(5)]  # more than one connection is open
        await asyncio.gather(*reads, *commands)
        demote(first)
        proxy.upstream = second.socket
        assert (await cache.get_or_compute("k", answer)).status is Status.DEGRADED
        await settled(cache)
        await until(lambda: second.admin.pubsub_numsub("okome:c1:{m}:wake")[0][1] == 1)
        first.forget_calls()
        assert (await cache.get_or_compute("k", answer)).status is Status.MISS
        await settled(cache)
        assert (await cache.get_or_compute("k", answer)).status is Status.HIT
        await asyncio.gather(*(client.get(f"okome:{n}") for n in range(10)))
        assert not {"get", "mget", "evalsha", "eval"} & set(first.calls())
        assert second.matching("okome:*:v:*")
        assert cache.counts["refused"] == 1
        assert cache.counts["unavailable"] == 0
        assert cache.available


async def test_the_budgets_follow_it_too(servers: tuple[RedisServer, RedisServer], tmp_path: Path) -> None:
    first, second = servers
    ledger = Ledger(tmp_path / "ledger.sqlite")
    async with (
        asyncio.timeout(2 * PATIENCE),
        moving(first, tmp_path) as (proxy, client),
        Budgets(client, rules=RULES, namespace="m", ledger=ledger, redis_timeout=30) as budgets,
    ):
        subject, amounts = {"user": "ann"}, {"requests": 1, "tokens": 10}
        spent = await budgets.reserve(subject, amounts)
        assert spent.lease is not None
        assert await budgets.start(spent.lease)
        await budgets.commit(spent.lease)
        demote(first)
        proxy.upstream = second.socket
        assert (await budgets.reserve(subject, amounts)).outcome is Outcome.UNAVAILABLE
        await until(lambda: not budgets._tasks)
        decision = await budgets.reserve(subject, amounts)
        assert decision.outcome is Outcome.ALLOWED
        assert decision.quotas[1].remaining == 1_000_000 - 20  # by the ledger
        assert second.matching("okome:b1:{m}:*")
    ledger.close()


@pytest.mark.parametrize(("breaker", "most"), [(600.0, 1), (0.0, 20)])
async def test_they_go_once_in_a_breakers_period(
    servers: tuple[RedisServer, RedisServer], tmp_path: Path, breaker: float, most: int
) -> None:
    """Where the address still leads to it, twenty refusals are no twenty times as many connections."""
    first, _ = servers
    policy = CachePolicy(redis_timeout=30, write_timeout=30, breaker=breaker)
    async with (
        asyncio.timeout(2 * PATIENCE),
        moving(first, tmp_path) as (proxy, client),
        Cache(client, namespace="m", codec=Bytes(), policy=policy) as cache,
    ):
        await cache.get_or_compute("k", answer)
        await settled(cache)
        before = proxy.connections
        demote(first)
        for n in range(20):
            assert (await cache.get_or_compute(str(n), answer)).status is Status.DEGRADED
            assert (await cache.get_or_compute("k", answer)).status is Status.HIT
            await settled(cache)
        assert cache.counts["refused"] == 20
        made = proxy.connections - before
        assert 2 <= made <= 4 * most  # a line and a subscription; a command or two that came meanwhile
        assert most == 1 or made >= most


# Sentinels


@pytest.fixture
def watched() -> Iterator[Sentinels]:
    with Sentinels([free_port() for _ in range(5)]) as sentinels:
        yield sentinels


class WaitingPool(SentinelConnectionPool, BlockingConnectionPool):
    """As somebody would write it who does not use connect_sentinel."""


def ours(sentinels: Sentinels) -> Redis:
    return connect_sentinel(sentinels.url, sentinels.addresses, SERVICE)


def of_ones_own(sentinels: Sentinels) -> Redis:
    login = dict(ours(sentinels).connection_pool.connection_kwargs)
    options = {name: login[name] for name in ("username", "password")}
    client: Redis = Sentinel(sentinels.addresses, driver_info=None, protocol=2).master_for(  # type: ignore[no-untyped-call]  # redis-py's
        SERVICE, connection_pool_class=WaitingPool, socket_timeout=1, **options
    )
    return client


class Traffic:
    """Callers who ask for what is there and for what is not, all the time: what they were told."""

    def __init__(self, cache: Cache[bytes], budgets: Budgets) -> None:
        self._cache, self._budgets = cache, budgets
        self._asked = 0
        self._stopped = False
        self.found: list[Status] = []
        self.decided: list[Decision] = []
        self.errors: list[BaseException] = []

    async def _ask(self) -> None:
        self._asked += 1
        key = str(self._asked) if self._asked % 3 else "k"
        self.found.append((await self._cache.get_or_compute(key, answer)).status)

    async def _spend(self) -> None:
        decision = await self._budgets.reserve({"user": "ann"}, {"requests": 1, "tokens": 10})
        self.decided.append(decision)
        if decision.lease is not None and await self._budgets.start(decision.lease):
            await self._budgets.commit(decision.lease, {"tokens": 5})

    async def _again_and_again(self, call: Callable[[], Any]) -> None:
        while not self._stopped:  # a cancellation is lost on redis-py's way, now and then
            try:
                await call()
            except Exception as error:  # noqa: BLE001  # it is what the tests look for
                self.errors.append(error)
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> "Traffic":
        self._tasks = [
            asyncio.create_task(self._again_and_again(call)) for call in 4 * [self._ask] + 2 * [self._spend]
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.wait(self._tasks, timeout=PATIENCE)

    async def goes_well(self, within: float = PATIENCE) -> None:
        """Until the next answers are stored, found and allowed."""
        seen, decided = len(self.found), len(self.decided)
        async with asyncio.timeout(within):
            while not (
                {Status.MISS, Status.HIT} <= set(self.found[seen:])
                and Outcome.ALLOWED in {decision.outcome for decision in self.decided[decided:]}
                and self._cache.available
            ):
                assert not self.errors
                await asyncio.sleep(0.01)


@asynccontextmanager
async def traffic(
    client: Any, ledger: Path, namespace: str = "s"
) -> AsyncIterator[tuple[Traffic, Cache[bytes], Budgets]]:
    book = Ledger(ledger)
    async with (
        Cache(client, namespace=namespace, codec=Bytes()) as cache,
        Budgets(client, rules=RULES, namespace=namespace, ledger=book) as budgets,
        Traffic(cache, budgets) as callers,
    ):
        await callers.goes_well()
        yield callers, cache, budgets
    book.close()
    await client.aclose()


@pytest.mark.parametrize("make", [ours, of_ones_own])
async def test_a_master_that_is_killed(
    watched: Sentinels, tmp_path: Path, make: Callable[[Sentinels], Redis]
) -> None:
    """While it is gone the cache computes, and a cap gives nothing out; then both go on with the new one."""
    async with asyncio.timeout(4 * PATIENCE), traffic(make(watched), tmp_path / "l") as (callers, _, _):
        old = watched.master()
        watched.servers[old].kill()
        await until(lambda: Status.DEGRADED in callers.found)
        await until(lambda: Outcome.UNAVAILABLE in {decision.outcome for decision in callers.decided})
        new = await asyncio.to_thread(watched.promoted, old)
        watched.servers[new].forget_calls()
        await callers.goes_well()
        assert watched.servers[new].calls()["evalsha"] > 0
        assert callers.errors == []


async def test_a_master_that_is_demoted(watched: Sentinels, tmp_path: Path) -> None:
    """It says READONLY to whoever is still connected: not one answer has to do without the cache."""
    async with asyncio.timeout(4 * PATIENCE), traffic(ours(watched), tmp_path / "l") as (callers, _, _):
        old = watched.demote()
        new = await asyncio.to_thread(watched.promoted, old)
        watched.servers[new].forget_calls()
        watched.servers[old].admin.replicaof("127.0.0.1", str(new))  # as the sentinels do 8 s later
        await callers.goes_well()
        await until(lambda: "evalsha" in watched.servers[new].calls())
        await callers.goes_well()
        assert callers.errors == []
        assert Status.DEGRADED not in callers.found
        assert {decision.outcome for decision in callers.decided} == {Outcome.ALLOWED}


async def test_sentinels_that_are_not_there(tmp_path: Path) -> None:
    client = connect_sentinel("redis://", [("127.0.0.1", free_port()), ("127.0.0.1", free_port())], SERVICE)
    async with asyncio.timeout(PATIENCE), Cache(client, namespace="s", codec=Bytes()) as cache:
        assert (await cache.get_or_compute("k", answer)).status is Status.DEGRADED
        assert not cache.available
    await client.aclose()


# A cluster


async def test_a_clusters_master_that_is_killed(tmp_path: Path) -> None:
    """The one that the namespace lives on."""
    with running_cluster(replicas=1, node_timeout=1000) as nodes:
        *_, master, replica = nodes
        client = connect_cluster(nodes[0].url)
        async with (
            asyncio.timeout(4 * PATIENCE),
            traffic(client, tmp_path / "l", SPREAD[-1]) as (callers, _, _),
        ):
            assert master.calls()["evalsha"] > 0
            master.kill()
            await until(lambda: Status.DEGRADED in callers.found)
            await until(lambda: replica.admin.info("replication")["role"] == "master")
            await callers.goes_well()
            assert replica.calls()["evalsha"] > 0
            assert callers.errors == []
