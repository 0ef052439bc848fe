"""A Redis Cluster in place of CN01, "by changing the client": three masters, and namespaces on all of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot

from bench.redis_server import RedisServer
from okome import (
    Budgets,
    Bytes,
    Cache,
    CachePolicy,
    Cap,
    Ledger,
    Outcome,
    Rate,
    Rule,
    Status,
    connect_cluster,
)
from tests.unit.okome.clusters import SLOTS, SPREAD, running_cluster
from tests.unit.okome.waiting import joined, told_to_wait

pytestmark = pytest.mark.anyio


def test_the_namespaces_are_spread() -> None:
    assert [3 * key_slot(name.encode()) // SLOTS for name in SPREAD] == [0, 1, 2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    with running_cluster() as nodes:
        for node in nodes:
            node.forget_calls()
        yield nodes
        assert [node.denied() for node in nodes] == [[], [], []]
        assert {"ERR", "NOPERM"} & {error for node in nodes for error in node.errors()} == set()


@pytest.fixture
async def client(cluster: list[RedisServer]) -> AsyncIterator[RedisCluster]:
    client = connect_cluster(cluster[0].url, timeout=30)
    yield client
    await client.aclose()


POLICY = CachePolicy(redis_timeout=30, write_timeout=30, lock_ttl=60, poll=60)


@pytest.mark.parametrize("namespace", SPREAD)
async def test_the_cache(cluster: list[RedisServer], client: RedisCluster, namespace: str) -> None:
    other = connect_cluster(cluster[1].url, timeout=30)
    for node in cluster:
        node.forget_calls()
    computes = 0
    release = asyncio.Event()

    async def compute() -> bytes:
        nonlocal computes
        computes += 1
        await release.wait()
        return b"answer"

    async with (
        asyncio.timeout(50),
        Cache(client, namespace=namespace, codec=Bytes(), policy=POLICY) as here,
        Cache(other, namespace=namespace, codec=Bytes(), policy=POLICY) as there,
    ):
        callers = [
            asyncio.create_task(cache.get_or_compute("k", compute, tags=["t"]))
            for cache in (here, there)
            for _ in range(50)
        ]
        await joined(here, 50)
        await joined(there, 50)
        await told_to_wait(*cluster)
        release.set()  # the first poll would come after the test's time: it is a message that wakes the others
        found = [await caller for caller in callers]
        assert computes == 1
        assert {cached.status for cached in found} == {Status.MISS, Status.COALESCED}
        assert (await there.get_or_compute("k", compute, tags=["t"])).status is Status.HIT
        many = await asyncio.gather(*(here.get_or_compute("k", compute, tags=["t"]) for _ in range(20)))
        assert {cached.status for cached in many} == {Status.HIT}
        assert await here.invalidate_tag("t")
        assert (await there.get_or_compute("k", compute, tags=["t"])).status is Status.MISS
        assert await here.invalidate("k")
        assert await here.get("k") is None
        for cache in (here, there):
            assert cache.counts["unavailable"] == cache.counts["refused"] == 0
    await other.aclose()


@pytest.mark.parametrize("namespace", SPREAD)
async def test_the_budgets(
    cluster: list[RedisServer], client: RedisCluster, tmp_path: Path, namespace: str
) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    rules: list[Rule] = [
        Rate(name="rate", by=("user",), unit="tokens", limit=1000, per=3600),
        Cap(name="cap", by=("user",), unit="tokens", limit=100),
        Cap(name="model", by=("model",), unit="tokens", limit=200),
    ]
    subject = {"user": "ann", "model": "large"}
    async with (
        asyncio.timeout(50),
        Budgets(client, rules=rules, namespace=namespace, ledger=ledger, redis_timeout=30) as budgets,
    ):
        lease = (await budgets.reserve(subject, {"tokens": 60})).lease
        assert lease is not None
        assert (await budgets.reserve(subject, {"tokens": 60})).outcome is Outcome.DENIED
        assert await budgets.start(lease)
        await budgets.commit(lease, {"tokens": 10})
        async with Budgets(
            client, rules=rules, namespace=namespace, ledger=ledger, redis_timeout=30
        ) as restarted:
            left = await restarted.reserve(subject, {"tokens": 0})
            assert [quota.remaining for quota in left.quotas] == [990, 90, 190]
            assert restarted.counts["seeded"] == 2
        for node in cluster:
            for key in node.matching("okome:*"):
                node.admin.delete(key)
        left = await budgets.reserve(subject, {"tokens": 0})
        assert [quota.remaining for quota in left.quotas] == [1000, 90, 190]
    ledger.close()
