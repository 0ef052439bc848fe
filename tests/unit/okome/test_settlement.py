"""A lease's life: reserved, started, settled, repeated, expired, refused."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import Ledger, Outcome, connect
from okome.budget_wire import Said
from tests.unit.okome.proxy import Proxy
from tests.unit.okome.spending import ANN, REQUESTS, TOKENS, OpenBudgets, granted, left
from tests.unit.okome.waiting import expire

pytestmark = pytest.mark.anyio


async def test_reserve_start_commit(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 400})
    assert await left(budgets) == 600
    assert await budgets.start(lease)
    await budgets.commit(lease, {"tokens": 150})
    assert await left(budgets) == 850


async def test_refund_gives_everything_back(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(REQUESTS, TOKENS)
    lease = await granted(budgets, {"requests": 4, "tokens": 400})
    await budgets.refund(lease)
    assert (await left(budgets), await left(budgets, "requests")) == (1000, 10)


async def test_above_the_estimate_is_debt_and_never_dropped(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 900})
    await budgets.commit(lease, {"tokens": 1500})
    assert (await budgets.reserve(ANN, {"tokens": 1})).outcome is Outcome.DENIED
    (key,) = server.matching("okome:*:cap:*")
    assert server.admin.hmget(key, "s", "r", "d") == [b"1500", b"0", b"600"]


async def test_repeats_change_nothing(open_budgets: OpenBudgets) -> None:
    """A client that retries, or a caller that does not know whether its call arrived."""
    budgets = open_budgets(REQUESTS, TOKENS)
    amounts = {"requests": 1, "tokens": 100}
    leases = [await granted(budgets, amounts, lease="mine") for _ in range(3)]
    assert (await left(budgets), await left(budgets, "requests")) == (900, 9)
    for lease in leases:
        assert await budgets.start(lease)
    for lease in leases:
        await budgets.commit(lease, {"tokens": 60})
    assert (await left(budgets), await left(budgets, "requests")) == (940, 9)


@pytest.mark.parametrize("end", ["commit", "refund"])
@pytest.mark.parametrize("lost", ["nothing", "marker", "counter"])
async def test_a_settled_lease_gives_no_more_work(
    open_budgets: OpenBudgets, server: RedisServer, end: str, lost: str
) -> None:
    """Neither by its id nor by the lease itself, whatever Redis lost meanwhile."""
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100}, lease="mine")
    assert await budgets.start(lease)
    await (budgets.commit(lease, {"tokens": 60}) if end == "commit" else budgets.refund(lease))
    if lost != "nothing":
        server.admin.delete(*server.matching("okome:*:lease:*"))
    if lost == "counter":
        server.admin.delete(*server.matching("okome:*:cap:*"))
    assert not await budgets.start(lease)
    again = await budgets.reserve(ANN, {"tokens": 100}, lease="mine")
    assert (again.outcome, again.status_code, again.lease) == (Outcome.SETTLED, 409, None)
    await budgets.commit(lease, {"tokens": 7})  # the first settlement stands
    assert await left(budgets) == (940 if end == "commit" else 1000)
    assert budgets.counts["already_settled"] == 2


@pytest.mark.parametrize("first", ["commit", "refund"])
async def test_of_two_settlements_at_once_redis_keeps_the_one_that_the_ledger_keeps(
    open_budgets: OpenBudgets, server: RedisServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The first in the ledger is the last in Redis."""
    one, two = open_budgets(TOKENS), open_budgets(TOKENS)
    lease = await granted(one, {"tokens": 100})
    assert await one.start(lease)
    settle = one._settlement._settle_in_redis

    async def later(*arguments: Any) -> bool:
        await (two.refund(lease) if first == "commit" else two.commit(lease, {"tokens": 60}))
        return await settle(*arguments)

    monkeypatch.setattr(one._settlement, "_settle_in_redis", later)
    await (one.commit(lease, {"tokens": 60}) if first == "commit" else one.refund(lease))
    assert await left(one) == (940 if first == "commit" else 1000)
    server.admin.flushall()
    assert await left(one) == (940 if first == "commit" else 1000)


async def test_a_settled_rate_gives_no_more_work(open_budgets: OpenBudgets) -> None:
    budgets = open_budgets(REQUESTS)
    await budgets.commit(await granted(budgets, {"requests": 1}, lease="mine"))
    assert (await budgets.reserve(ANN, {"requests": 1}, lease="mine")).outcome is Outcome.SETTLED
    assert await left(budgets, "requests") == 9


async def test_an_expired_lease_is_refunded_unless_it_started(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    waiting = await granted(budgets, {"tokens": 300})
    started = await granted(budgets, {"tokens": 200})
    assert await budgets.start(started)
    assert await left(budgets) == 500
    expire(server, waiting, started)
    assert await left(budgets) == 800
    await budgets.commit(started, {"tokens": 120})  # late, but it tells what it really was
    assert await left(budgets) == 880


async def test_a_late_start_is_reserved_anew_or_refused(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    early, late = await granted(budgets, {"tokens": 300}), await granted(budgets, {"tokens": 300})
    expire(server, early, late)
    await granted(budgets, {"tokens": 600})
    assert await budgets.start(early)
    assert not await budgets.start(late)


async def test_start_is_refused_if_the_ledger_does_not_take_it(
    open_budgets: OpenBudgets, ledger: Ledger
) -> None:
    budgets = open_budgets(TOKENS)
    lease = await granted(budgets, {"tokens": 100})
    ledger._thread.submit(lambda: ledger._connected().execute("DROP TABLE entries")).result()
    assert not await budgets.start(lease)
    assert await left(budgets) == 1000
    assert budgets.counts["ledger_failed"] == 1


async def test_a_start_that_is_refused_gives_the_lease_back(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    budgets = open_budgets(REQUESTS, TOKENS)
    late = await granted(budgets, {"requests": 1, "tokens": 300})
    expire(server, late)
    taken = await granted(budgets, {"tokens": 800})
    assert not await budgets.start(late)
    await budgets.refund(taken)
    assert not await budgets.start(late), "it is over"
    assert (await left(budgets), await left(budgets, "requests")) == (1000, 10)
    server.admin.flushall()
    assert await left(budgets) == 1000


@pytest.mark.parametrize(("other", "fits"), [(600, False), (400, True)])
async def test_a_start_fits_even_if_another_rebuilt_the_counter_meanwhile(
    open_budgets: OpenBudgets, server: RedisServer, monkeypatch: pytest.MonkeyPatch, other: int, fits: bool
) -> None:
    """The ledger has its row, so the rebuilt counter holds it: that alone is no permission."""
    one, two, three = (open_budgets(TOKENS) for _ in range(3))
    late = await granted(one, {"tokens": 600})
    server.admin.flushall()
    assert await two.start(await granted(two, {"tokens": other}))
    begin = one._settlement._start_in_redis

    async def rebuilt_first(*arguments: Any) -> Said | None:
        server.admin.flushall()
        await three.reserve(ANN, {"tokens": 0})
        assert three.counts["seeded"] == 1
        return await begin(*arguments)

    monkeypatch.setattr(one._settlement, "_start_in_redis", rebuilt_first)
    assert await one.start(late) is fits
    assert await left(three) == (0 if fits else 400)


async def test_a_start_that_is_refused_gives_the_lease_back_without_a_ledger(
    own_server: RedisServer, own_client: Redis, open_budgets: OpenBudgets
) -> None:
    own_server.admin.acl_setuser("okome", enabled=True, commands=["+info"])
    budgets = open_budgets(REQUESTS, TOKENS, redis=own_client, ledger=None)
    await budgets.initialise()
    late = await granted(budgets, {"requests": 1, "tokens": 300})
    expire(own_server, late)
    await granted(budgets, {"tokens": 800})
    assert not await budgets.start(late)
    assert await left(budgets, "requests") == 10
    assert budgets.counts["settled"] == 1


async def test_what_has_started_is_not_given_back_by_another_start(
    open_budgets: OpenBudgets, server: RedisServer
) -> None:
    budgets = open_budgets(TOKENS)
    working, large = await granted(budgets, {"tokens": 100}), await granted(budgets, {"tokens": 900})
    assert await budgets.start(working)
    await budgets.commit(large, {"tokens": 950})
    server.admin.flushall()
    assert not await budgets.start(working), "a rebuilt counter does not tell that it fitted"
    await budgets.commit(working, {"tokens": 40})
    assert await left(budgets) == 10


async def killed_in_its_start(server: RedisServer, path: Path, when: str) -> None:
    """A process that reserves 300 and starts, and is killed (-9) at some point of that."""
    book = sqlite3.connect(path, isolation_level=None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.unit.okome.start_a_lease", server.url, str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"reserved\n"
            if when == "before the ledger has it":
                book.execute("BEGIN IMMEDIATE")
            elif when == "before Redis has it":
                server.pause()
            process.send_signal(signal.SIGUSR1)
            if when == "before the ledger has it":
                await asyncio.sleep(0.2)
            elif when == "before Redis has it":
                while not book.execute("SELECT * FROM entries").fetchall():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            else:
                assert await process.stdout.readline() == b"started\n"
    finally:
        process.kill()
        await process.wait()
        server.resume()
        book.close()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("when", "charged"),
    [
        ("before the ledger has it", {0}),
        ("before Redis has it", {0, 300}),  # the call was under way, or not yet
        ("after it began", {300}),
    ],
)
async def test_what_began_is_charged_when_a_process_is_killed(
    open_budgets: OpenBudgets, server: RedisServer, tmp_path: Path, when: str, charged: set[int], lost: bool
) -> None:
    budgets = open_budgets(TOKENS, lease_ttl=0.2, started_ttl=0.2)
    await killed_in_its_start(server, tmp_path / "spent.sqlite", when)
    if lost:
        server.admin.flushall()
    await asyncio.sleep(0.3)
    spent = 1000 - await left(budgets)
    assert spent in charged
    if lost and when == "before Redis has it":
        assert spent == 300, "by the ledger, it may have begun"


async def test_answers_cut_off_after_the_call_was_carried_out_charge_once(
    open_budgets: OpenBudgets, server: RedisServer, tmp_path: Path
) -> None:
    async with Proxy(server.socket, tmp_path / "proxy.sock") as proxy:
        client = connect(server.url.replace(str(server.socket), str(proxy.listen)), timeout=30)
        far, near = open_budgets(REQUESTS, TOKENS, redis=client), open_budgets(REQUESTS, TOKENS)
        await near.check()
        await far.refund(await granted(far, {"requests": 1, "tokens": 1}))  # the scripts are known
        for commits in (True, False):
            proxy.cut_after_send = 1
            lease = await granted(far, {"requests": 2, "tokens": 300})
            proxy.cut_after_send = 1
            assert await far.start(lease)
            proxy.cut_after_send = 1
            await (far.commit(lease, {"requests": 1, "tokens": 200}) if commits else far.refund(lease))
            assert proxy.cut_after_send == 0
            assert (await left(near), await left(near, "requests")) == (800, 9)
        assert far.counts["unavailable"] == far.counts["unsettled"] == 0
        await client.aclose()
