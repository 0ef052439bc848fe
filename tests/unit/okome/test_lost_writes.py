"""A server that knows less than it had: a replica that took over, or one that was started from an older snapshot. Its
counters are there, so that nothing is missing, and are built anew from the ledger, once.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from bench.ports import free_port
from bench.redis_server import RedisServer
from okome import Outcome, connect
from tests.unit.okome.proxy import Proxy
from tests.unit.okome.spending import ANN, TOKENS, OpenBudgets, granted, left
from tests.unit.okome.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisServer, Proxy, Redis]]:
    """A master, its replica, and an address that leads to the master."""
    port = free_port()
    bound = ("--bind", "127.0.0.1", "--port", str(port), "--repl-diskless-sync-delay", "0")
    login = ("--masteruser", "admin", "--masterauth", "same-too")
    with (
        RedisServer(*bound, password="same", admin_password="same-too") as master,
        RedisServer(*login, password="same", admin_password="same-too") as replica,
    ):
        async with Proxy(master.socket, tmp_path / "proxy.sock") as proxy:
            client = connect(master.url.replace(str(master.socket), str(proxy.listen)), timeout=30)
            replica.admin.replicaof("127.0.0.1", str(port))
            await until(lambda: replica.admin.info("replication").get("master_link_status") == "up")
            yield master, replica, proxy, client
            await client.aclose()


def offset(server: RedisServer) -> int:
    return int(server.admin.info("replication")["master_repl_offset"])


@pytest.mark.parametrize("old", ["is killed", "says READONLY"])
@pytest.mark.parametrize("known", ["spent", "started", "reserved"])
async def test_what_a_replica_never_heard_of_is_spent_all_the_same(
    replicated: tuple[RedisServer, RedisServer, Proxy, Redis],
    open_budgets: OpenBudgets,
    old: str,
    known: str,
) -> None:
    master, replica, proxy, client = replicated
    budgets = open_budgets(TOKENS, redis=client, breaker=0)
    if known != "spent":
        lease = await granted(budgets, {"tokens": 900})
        if known == "started":
            assert await budgets.start(lease)
    else:
        await budgets.commit(await granted(budgets, {"tokens": 1}))
    await until(lambda: offset(replica) == offset(master))
    replica.admin.replicaof("NO", "ONE")
    if known == "spent":
        lease = await granted(budgets, {"tokens": 899})
    if known != "started":
        assert await budgets.start(lease)
    if known != "reserved":
        await budgets.commit(lease)
    proxy.upstream = replica.socket
    if old == "is killed":
        master.kill()
    else:
        master.admin.replicaof("127.0.0.1", "1")  # nobody is there, and it goes on answering
        assert (await budgets.reserve(ANN, {"tokens": 0})).outcome is Outcome.UNAVAILABLE
        await until(lambda: not budgets._tasks)
    decision = await budgets.reserve(ANN, {"tokens": 101})
    assert (decision.outcome, decision.quotas[0].remaining) == (Outcome.DENIED, 100)
    await granted(budgets, {"tokens": 60})
    assert await left(budgets) == 40
    assert budgets.counts["fell_back"] == 1


async def test_an_older_snapshot_is_noticed_once(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets
) -> None:
    one, two = (open_budgets(TOKENS, redis=own_client, breaker=0) for _ in range(2))
    await one.commit(await granted(one, {"tokens": 100}))
    assert await left(two) == 900
    own_server.admin.save()
    for budgets in (one, two):
        lease = await granted(budgets, {"tokens": 300})
        assert await budgets.start(lease)
        await budgets.commit(lease, {"tokens": 250})
    own_server.kill()
    for budgets in (one, two):
        assert (await budgets.reserve(ANN, {"tokens": 0})).outcome is Outcome.UNAVAILABLE
    own_server.start()
    assert own_server.matching("okome:*:cap:*")
    assert await asyncio.gather(*(left(budgets) for budgets in (one, two, one, two))) == [400] * 4
    assert await left(one) == 400
    assert [budgets.counts["fell_back"] for budgets in (one, two)] == [1, 1]


async def test_a_server_that_lost_nothing_keeps_its_counters(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets
) -> None:
    """With what was reserved and has not begun, of which the ledger does not know."""
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)
    await granted(budgets, {"tokens": 400})
    for _ in range(2):
        with own_server.unreachable():
            assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.UNAVAILABLE
        own_server.admin.client_kill_filter(_type="normal", skipme=True)
        assert await left(budgets) == 600
    assert budgets.counts["fell_back"] == 0
