"""Counters that Redis lost, or that know too little: rebuilt from the ledger."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Ledger, Outcome
from okome.ledger_file import Account
from tests.unit.okome.spending import ANN, COST, TOKENS, OpenBudgets, granted, left

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("loss", ["evicted", "restarted"])
async def test_lost_state_is_noticed_and_rebuilt_from_the_ledger(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets, loss: str
) -> None:
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)

    def lose() -> None:
        if loss == "evicted":
            own_server.admin.delete(*own_server.matching("okome:*:cap:*"))
        else:
            own_server.kill()
            own_server.start()

    spent = await granted(budgets, {"tokens": 400})
    await budgets.start(spent)
    await budgets.commit(spent, {"tokens": 350})
    running = await granted(budgets, {"tokens": 200})
    assert await budgets.start(running)
    never_started = await granted(budgets, {"tokens": 50})

    lose()
    assert await left(budgets) == 1000 - 350 - 200
    assert await budgets.start(never_started)
    assert await left(budgets) == 1000 - 350 - 200 - 50
    lose()
    await budgets.commit(running, {"tokens": 100})
    await budgets.commit(spent, {"tokens": 350})  # once more
    assert await left(budgets) == 1000 - 350 - 100 - 50
    assert budgets.counts["seeded"] >= 2


async def test_every_loss_is_noticed(open_budgets: OpenBudgets, server: RedisServer) -> None:
    """Not one of many losses resurrects a single token."""
    budgets = open_budgets(TOKENS)
    for n in range(20):
        lease = await granted(budgets, {"tokens": 50})
        if n % 3 == 0:
            server.admin.flushall()
        assert await budgets.start(lease)
        if n % 3 == 1:
            server.admin.delete(*server.matching("okome:*:cap:*"))
        await budgets.commit(lease)
        if n % 3 == 2:
            server.admin.flushall()
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED


async def test_a_lost_counter_with_a_broken_ledger_is_503(
    open_budgets: OpenBudgets, ledger: Ledger, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    await granted(budgets, {"tokens": 1})
    server.admin.flushall()
    ledger._thread.submit(lambda: ledger._connected().execute("DROP TABLE entries")).result()
    decision = await budgets.reserve(ANN, {"tokens": 1})
    assert (decision.outcome, decision.status_code) == (Outcome.STATE_LOST, 503)


async def test_the_ledger_is_append_only(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.settle("lease", [("counter", 5)], at=1.0)
    connection = sqlite3.connect(tmp_path / "spent.sqlite")
    for statement in ("UPDATE entries SET amount = 0", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


async def test_spent_while_redis_was_gone_is_remembered(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets
) -> None:
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)
    lease = await granted(budgets, {"tokens": 400})
    assert await budgets.start(lease)
    own_server.kill()
    await budgets.commit(lease, {"tokens": 700})
    own_server.start()
    assert await left(budgets) == 300
    assert budgets.counts["unsettled"] == 1


@pytest.mark.parametrize("settled", ["committed", "cancelled"])
async def test_spent_while_redis_was_unreachable_is_remembered(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets, settled: str
) -> None:
    """Its counter survives with the old reservation, so nothing tells that it knows too little."""
    budgets = open_budgets(TOKENS, redis=own_client, breaker=0)
    lease, later = await granted(budgets, {"tokens": 10}), await granted(budgets, {"tokens": 150})
    assert await budgets.start(lease)
    if settled == "committed":
        with own_server.unreachable():
            await budgets.commit(lease, {"tokens": 900})
    else:
        commit = asyncio.create_task(budgets.commit(lease, {"tokens": 900}))
        await asyncio.sleep(0)  # it has begun: the ledger is writing
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    assert own_server.matching("okome:*:cap:*")
    assert not await budgets.start(later)
    assert (await budgets.reserve(ANN, {"tokens": 900})).outcome is Outcome.DENIED
    assert await left(budgets) == 100


@pytest.mark.parametrize("again", ["a reservation", "a check"])
async def test_spent_while_redis_was_unreachable_is_remembered_after_a_restart(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets, again: str
) -> None:
    """The process that knew is gone; the counter in Redis lives on, and knows of the old reservation only."""
    budgets = open_budgets(TOKENS, COST, redis=own_client, breaker=0)
    lease = await granted(budgets, {"tokens": 10, "cost": 10})
    assert await budgets.start(lease)
    with own_server.unreachable():
        await budgets.commit(lease, {"tokens": 900, "cost": 400})
        restarted = open_budgets(TOKENS, COST, redis=own_client, breaker=0)
        await restarted.check()
        assert (await restarted.reserve(ANN, {"tokens": 0})).outcome is Outcome.UNAVAILABLE
    if again == "a check":
        await restarted.check()
    before = own_server.matching("okome:*:cap:*")
    assert len(before) == 2
    assert (await restarted.reserve(ANN, {"tokens": 101})).outcome is Outcome.DENIED
    assert await left(restarted) == 100
    assert await left(restarted, "cost") == 100
    assert restarted.counts["seeded"] == 2


async def test_a_restart_forgets_only_what_the_ledger_can_tell_of_this_period(
    open_budgets: OpenBudgets, ledger: Ledger, redis: Redis, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    await budgets.commit(await granted(budgets, {"tokens": 1}))
    (key,) = (key.decode() for key in server.matching("okome:*:cap:*"))
    others = [key.replace("{test}", "{other}"), key.rpartition("-")[0] + "-86400"]
    for other in others:
        await ledger.settle("lease", [(other, 5)], at=1.0)
        await redis.hset(other, "s", "5")
    restarted = open_budgets(TOKENS)
    await restarted.check()
    assert restarted._reseeding.stale == {key}
    assert await left(restarted) == 999
    assert set(server.matching("okome:*:cap:*")) == {name.encode() for name in (key, *others)}


async def test_a_ledger_that_cannot_be_read_at_first_decides_nothing(
    open_budgets: OpenBudgets, ledger: Ledger
) -> None:
    ledger._thread.submit(
        lambda: ledger._connected().execute("ALTER TABLE counters RENAME TO hidden")
    ).result()
    budgets = open_budgets(TOKENS)
    with pytest.raises(sqlite3.Error):
        await budgets.check()
    decision = await budgets.reserve(ANN, {"tokens": 1})
    assert (decision.outcome, decision.headers()) == (Outcome.STATE_LOST, {"Retry-After": "1"})
    ledger._thread.submit(
        lambda: ledger._connected().execute("ALTER TABLE hidden RENAME TO counters")
    ).result()
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.ALLOWED


@pytest.mark.parametrize("lost", ["okome:*:cap:*", "*"])
@pytest.mark.parametrize("rebuilt_before", [False, True])
async def test_an_old_account_is_not_seeded_over_later_spending(
    open_budgets: OpenBudgets,
    server: RedisServer,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    rebuilt_before: bool,
) -> None:
    """One process reads the ledger and stalls; another rebuilds the counter and spends, and it is lost again."""
    slow, other = open_budgets(TOKENS), open_budgets(TOKENS)
    read, rebuild, spent = ledger.account, slow._reseeding.rebuild, 0

    async def read_and_stall(counter: str, settled_since: float) -> Account:
        nonlocal spent
        account = await read(counter, settled_since)
        if not spent:
            spent = 900
            lease = await granted(other, {"tokens": spent})
            assert await other.start(lease)
            await other.commit(lease)
            server.admin.delete(*server.matching(lost))
        return account

    async def rebuild_what_is_there(charge: Any) -> bool:
        await left(other)
        return await rebuild(charge)

    monkeypatch.setattr(ledger, "account", read_and_stall)
    if rebuilt_before:
        monkeypatch.setattr(slow._reseeding, "rebuild", rebuild_what_is_there)
        as_it_is = Ledger(tmp_path / "spent.sqlite")
        monkeypatch.setattr(other._reseeding, "_ledger", as_it_is)
        monkeypatch.setattr(other._settlement, "_ledger", as_it_is)
    assert await left(slow) == 1000 - spent
    assert await left(other) == 1000 - spent
    assert not server.matching("okome:*:seed:*")
    if rebuilt_before:
        as_it_is.close()


async def test_an_old_account_is_not_seeded_over_a_dropped_counter(
    own_server: RedisServer,
    own_client: Redis,
    open_budgets: OpenBudgets,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was settled without Redis since it was read is in the ledger alone."""
    slow, other = (open_budgets(TOKENS, redis=own_client, breaker=0) for _ in range(2))
    lease = await granted(other, {"tokens": 10})
    own_server.admin.flushall()
    read, reads = ledger.account, 0

    async def read_and_stall(counter: str, settled_since: float) -> Account:
        nonlocal reads
        account = await read(counter, settled_since)
        reads += 1
        if reads == 1:
            with own_server.unreachable():
                await other.commit(lease, {"tokens": 900})
            await other._reseeding.drop_stale()
        return account

    monkeypatch.setattr(ledger, "account", read_and_stall)
    assert await left(slow) == 100
    assert reads == 2
