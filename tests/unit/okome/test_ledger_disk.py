"""A disk that is full or read-only: a tmpfs of its own, which only the planner sees that is run on it, and which ends
with it. And what SQLite itself answers.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bench.redis_server import RedisServer
from okome import Ledger
from okome.mode import Mode
from tests.unit.okome.spending import ANN, TOKENS, OpenBudgets, granted
from tests.unit.okome.test_planner import ask, eventually, health, metric, mode, running
from tests.unit.okome.waiting import until

pytestmark = pytest.mark.anyio
mounting = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tmpfs")

NAMES = ("status", "mode", "redis", "ledger")
WELL = (200, "ok", "redis", "ok", "ok")


class Disk:
    """A tmpfs in a mount namespace of its own. `under`: the command that makes both, and then becomes another."""

    def __init__(self, folder: Path, state: str = "rw") -> None:
        self.path = folder / "disk"
        self.path.mkdir()
        self._pid = folder / "pid"
        mount = f'mount -t tmpfs -o size=1m,{state} none "$0" && echo $$ >"$1" && shift && exec "$@"'
        namespace = ("unshare", "--mount", "--propagation", "private")
        self.under = (*namespace, "sh", "-c", mount, str(self.path), str(self._pid))

    @property
    def seen(self) -> Path:
        """As the planner sees it."""
        return Path(f"/proc/{self._pid.read_text().strip()}/root{self.path}")

    def remount(self, state: str) -> None:
        enter = ("nsenter", "--target", self._pid.read_text().strip(), "--mount")
        subprocess.run([*enter, "mount", "-o", f"remount,{state}", str(self.path)], check=True, timeout=60)

    def fill(self) -> None:
        with (self.seen / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def free(self) -> None:
        (self.seen / "filler").unlink()


def refused(planner: httpx.Client, words: str) -> str:
    """The message of the first answer that is none, to a question that nobody has asked before."""
    for n in range(200):
        answer = ask(planner, messages=[{"role": "user", "content": f"{words} {n}"}])
        if answer.status_code != 200:
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            return str(answer.json()["error"]["message"])
    raise AssertionError("the disk is full, and all is written")


@mounting
def test_a_full_disk_is_seen_and_survived(own_server: RedisServer, tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    ledger = ("--ledger", str(disk.path / "ledger.sqlite"))
    with running(own_server.url, tmp_path, *ledger, "--latency", "0.001", under=disk.under) as planner:
        assert ask(planner).status_code == 200
        assert health(planner, *NAMES) == WELL
        eventually(lambda: metric(planner, "okome_cache", "stored"), 1)
        disk.fill()
        assert "the ledger's disk is full" in refused(planner, "full")
        assert health(planner, *NAMES) == (200, "refusing", "refusing", "ok", "the ledger's disk is full")
        assert mode(planner) == "refusing"
        owed = metric(planner, "okome_budget", "owed")
        for n in range(5):
            refused(planner, f"again {n}")
        assert metric(planner, "okome_budget", "owed") == owed, "what did not begin owes nothing"
        assert metric(planner, "okome_budget", "ledger_failed") > 0
        assert ask(planner).headers["X-OKOME-Cache"] == "HIT"
        own_server.kill()
        eventually(lambda: health(planner, "status", "redis"), (503, "refusing", "unavailable"))
        assert "the ledger's disk is full" in refused(planner, "and alone")
        disk.free()
        own_server.start()
        eventually(lambda: health(planner, *NAMES), WELL)  # though nobody asks for anything else
        assert ask(planner, messages=[{"role": "user", "content": "and now"}]).status_code == 200


@mounting
def test_a_full_disk_takes_the_next_request_as_soon_as_there_is_room(
    own_server: RedisServer, tmp_path: Path
) -> None:
    disk = Disk(tmp_path)
    ledger = ("--ledger", str(disk.path / "ledger.sqlite"))
    with running(own_server.url, tmp_path, *ledger, "--latency", "0.001", under=disk.under) as planner:
        disk.fill()
        refused(planner, "full")
        disk.free()
        assert ask(planner).status_code == 200


@mounting
def test_a_planner_comes_up_on_a_read_only_disk_and_takes_it_up_when_it_can_be_written(
    own_server: RedisServer, tmp_path: Path
) -> None:
    disk = Disk(tmp_path, "ro")
    ledger = ("--ledger", str(disk.path / "ledger.sqlite"))
    with running(own_server.url, tmp_path, *ledger, under=disk.under) as planner:
        eventually(
            lambda: health(planner, *NAMES),
            (200, "refusing", "refusing", "ok", "the ledger's disk is read-only"),
        )
        assert "the ledger's disk is read-only" in refused(planner, "read-only")
        disk.remount("rw")
        eventually(lambda: health(planner, *NAMES), WELL)
        assert ask(planner).status_code == 200


def test_a_path_that_can_not_be_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, though long enough to be taken for one" * 100)
    for path in (tmp_path / "nowhere" / "ledger.sqlite", tmp_path, tmp_path / "text"):
        with pytest.raises(sqlite3.DatabaseError, match=r"unable to open|not a database"):
            Ledger(path)


async def _answered(ledger: Ledger, pragma: str) -> None:
    """SQLite answers writes as it would there: https://www.sqlite.org/pragma.html."""
    ledger._thread.submit(lambda: ledger._connected().execute(pragma).fetchall()).result()


@pytest.mark.parametrize(
    ("pragma", "trouble"),
    [
        ("query_only = ON", "the ledger's disk is read-only"),
        ("max_page_count = 1", "the ledger's disk is full"),
    ],
)
async def test_what_could_not_be_written_is_explained_and_given_back(
    open_budgets: OpenBudgets, ledger: Ledger, pragma: str, trouble: str
) -> None:
    budgets = open_budgets(TOKENS, on_unavailable="ledger")
    running, waiting = await granted(budgets, {"tokens": 100}), await granted(budgets, {"tokens": 900})
    assert await budgets.start(running)
    await _answered(ledger, f"PRAGMA {pragma}")
    if trouble.endswith("full"):
        for n in range(1000):  # until no page has room
            with suppress(sqlite3.OperationalError):
                await ledger.settle(f"another-{n}", [(f"another-{n}", 1)], 1.0)
                continue
            break
    assert not await budgets.start(waiting)
    assert budgets.ledger_trouble == ledger.trouble == trouble
    assert budgets.mode is Mode.REFUSING
    if trouble.endswith("full"):  # else it is opened anew, and can be written
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await budgets.commit(running, {"tokens": 140})
        budgets.commit_soon(running, {"tokens": 140})
        await until(lambda: budgets.counts["owed"])
        await _answered(ledger, "PRAGMA max_page_count = 1000000")
    assert await budgets.look() is Mode.REDIS
    assert ledger.trouble is None
    budgets.commit_soon(running, {"tokens": 140})
    async with asyncio.timeout(60):
        while budgets._tasks:
            await asyncio.wait(set(budgets._tasks))
    (key,) = {charge.key for charge in running.charges}
    assert (await ledger.account(key, 0.0)).spent == 140, "with what exceeded the estimate"
    assert (await budgets.reserve(ANN, {"tokens": 0})).quotas[0].remaining == 860, (
        "what did not begin is free"
    )
