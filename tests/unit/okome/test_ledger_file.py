"""The ledger's file: what goes when its period is over, what stays, and what becomes of the tables of old."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okome import Ledger, ledger_file
from okome.ledger_file import Account, Entered
from okome.rules import Period, period_end

pytestmark = pytest.mark.anyio

DAY = 86400
TODAY = int(time.time()) // DAY * DAY


def day(number: int, whom: str = "ann") -> str:
    """A counter of so many days ago."""
    return f"okome:b1:{{test}}:cap:tpd:{whom}:day-{TODAY - number * DAY}"


def noon(number: int) -> float:
    return TODAY - number * DAY + DAY / 2


async def spend(ledger: Ledger, number: int, leases: int, whom: str = "ann") -> None:
    """All at noon of that day, half of what was reserved; and the step that follows is done."""
    names = [f"{number}-{n}-{whom}" for n in range(leases)]
    charges = [(day(number, whom), 10)]
    await asyncio.gather(*[ledger.start(name, charges, noon(number)) for name in names])
    half = [(counter, amount // 2) for counter, amount in charges]
    await asyncio.gather(*[ledger.settle(name, half, noon(number)) for name in names])
    await ledger.account("", 0.0)  # the one thread has had its turn


class File:
    """It, seen by somebody else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)

    def value(self, question: str, *arguments: object) -> int:
        (value,) = self.connection.execute(question, arguments).fetchone()
        return int(value)

    def entries(self, counter: str | None = None) -> int:
        if counter is None:
            return self.value("SELECT count(*) FROM entries")
        return self.value(
            "SELECT count(*) FROM entries JOIN counters ON id = counter WHERE name = ?", counter
        )

    def settled(self, counter: str) -> int:
        return self.value("SELECT settled FROM counters WHERE name = ?", counter)

    def size(self) -> int:
        """Bytes, once the log is written into it."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self.path.stat().st_size


@pytest.fixture
def file(ledger: Ledger, tmp_path: Path) -> File:
    return File(tmp_path / "spent.sqlite")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for what has ended at each write, and little is too much."""
    monkeypatch.setattr("okome.ledger.PRUNE_EVERY", 0.0)
    monkeypatch.setattr(ledger_file, "_PAGES", 4)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("okome:b1:{n}:cap:rule:digest:hour-1764115200", 1764118800),
        ("okome:b1:{n}:cap:rule:digest:day-1764115200", 1764201600),
        ("okome:b1:{n}:cap:rule:digest:month-1761955200", 1764547200),
        ("cap", None),
        ("day-1764115200", None),
    ],
)
def test_a_counters_name_tells_when_it_ends(name: str, end: int | None) -> None:
    assert period_end(name) == end


@pytest.mark.usefixtures("at_once")
async def test_many_days_take_the_room_of_a_few(ledger: Ledger, file: File) -> None:
    """60 days of 200 requests: never more entries than of the days that are kept, and the sums are true."""
    sizes, most = [], 0
    for number in range(60, 0, -1):
        await spend(ledger, number, 200)
        most = max(most, file.entries())
        sizes.append(file.size())
    assert most <= 3 * 2 * 200, "today, yesterday, and what is about to go"
    assert max(sizes) <= 1.5 * max(sizes[:4])
    assert file.value("SELECT count(*) FROM counters") == 60
    assert {file.settled(day(number)) for number in range(1, 61)} == {200 * 5}


@pytest.mark.usefixtures("at_once")
async def test_the_room_of_a_day_with_many_requests_is_given_back(ledger: Ledger, file: File) -> None:
    await spend(ledger, 10, 5000)
    large = file.size()
    for n in range(12):  # so many steps
        await ledger.settle(f"later-{n}", [(day(5), 1)], noon(5))
        await ledger.account("", 0.0)
    assert large > 300_000
    assert file.size() < large / 4
    assert file.settled(day(10)) == 25_000
    assert file.entries(day(10)) == 0


@pytest.mark.usefixtures("at_once")
async def test_a_write_prunes_no_more_than_a_step(
    ledger: Ledger, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spend(ledger, 9, 300)
    await spend(ledger, 9, 40, "bob")
    monkeypatch.setattr(ledger_file, "PRUNED", 100)
    before, steps = file.entries(), []
    for n in range(12):
        await ledger.start(f"later-{n}", [(day(5), 1)], noon(5))
        await ledger.account(day(5), 0.0)  # it is the turn of the one thread: the step is done
        now = file.entries()
        steps.append(before + 1 - now)
        before = now
    assert max(steps) == 100
    assert sum(steps) == 2 * 340
    assert steps[-1] == 0


async def test_what_has_ended_is_looked_for_once_in_a_while(
    ledger: Ledger, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spend(ledger, 2, 3)
    looked = file.entries()
    await spend(ledger, 0, 3)  # the first is to go, and nobody looks yet
    assert file.entries() == looked + 6
    monkeypatch.setattr(ledger, "_prune_at", 0.0)
    await spend(ledger, 0, 1, "bob")
    assert file.entries(day(2)) == 0
    assert file.entries(day(0)) == 6


@pytest.mark.usefixtures("at_once")
async def test_what_is_open_is_kept_and_append_only(ledger: Ledger, file: File) -> None:
    """Today, the day before, a month that goes on, and what names no period."""
    month = f"okome:b1:{{test}}:cap:month:ann:month-{Period.MONTH.around(TODAY)[0]}"
    kept = [day(0), day(1), month, "cap"]
    await spend(ledger, 30, 5)
    for name in kept:
        await ledger.settle(f"lease-{name}", [(name, 3)], noon(20))
    await spend(ledger, 0, 1, "bob")
    assert [file.entries(name) for name in (*kept, day(30))] == [1, 1, 1, 1, 0]
    for statement in (
        "UPDATE entries SET amount = 0",
        "DELETE FROM entries",
        "DELETE FROM counters",
        "UPDATE counters SET settled = settled - 1",
        "UPDATE counters SET closed = 0",
        "UPDATE counters SET ends = 0",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            file.connection.execute(statement)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("behind", ["Redis", "host"])
async def test_one_clock_that_runs_ahead_ends_no_period(
    ledger: Ledger, file: File, monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    await spend(ledger, 0, 3)
    ahead = TODAY + 4000 * DAY
    if behind == "Redis":
        monkeypatch.setattr("okome.ledger.time.time", lambda: ahead)
        at = noon(0)
    else:
        at = float(ahead)
    await ledger.settle("other", [("cap", 1)], at)
    await ledger.account("", 0.0)  # the one thread has had its turn
    assert file.entries(day(0)) == 6


@pytest.mark.usefixtures("at_once")
async def test_what_never_ended_of_a_closed_period_is_charged(ledger: Ledger, file: File) -> None:
    """As an expired lease is; and what is said of it later changes nothing."""
    await spend(ledger, 9, 2)
    await ledger.start("working", [(day(9), 70)], noon(9))
    await spend(ledger, 5, 1)
    assert file.settled(day(9)) == 2 * 5 + 70
    assert await ledger.settle("working", [(day(9), 30)], noon(5)) == {day(9): 30}
    assert await ledger.account(day(9), 0.0) == Account(80, (), ())
    assert await ledger.counters("okome:b1:{test}:cap:") == [day(5)]
    assert file.entries(day(9)) == 0


@pytest.mark.usefixtures("at_once")
async def test_sums_are_kept_for_three_months(ledger: Ledger, file: File) -> None:
    await spend(ledger, 200, 1)
    for number in (109, 108, 106, 105):
        await spend(ledger, number, 1)
    await spend(ledger, 14, 1)
    await spend(ledger, 14, 1, "bob")
    names = [name for (name,) in file.connection.execute("SELECT name FROM counters ORDER BY name")]
    assert names == [day(106), day(105), day(14), day(14, "bob")]


_PRUNING = """
import asyncio, os, signal, sys, time
from okome import Ledger, ledger_file, ledger
from tests.unit.okome.test_ledger_file import day, noon, spend

ledger.PRUNE_EVERY, ledger_file.PRUNED, ledger_file._PAGES = 0.0, 40, 2
steps = int(sys.argv[2])
prune = ledger_file.prune

def killed(connection, now):
    connection.set_progress_handler(count, 1)
    return prune(connection, now)

def count():
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)

ledger_file.prune = killed

async def main():
    book = Ledger(sys.argv[1])
    n = 0
    while True:
        n += 1
        await book.settle(f"now-{os.getpid()}-{n}", [(day(0), 1)], noon(0))
        print(1, flush=True)

asyncio.run(main())
"""


async def test_a_crash_amid_pruning_loses_nothing(tmp_path: Path) -> None:
    """Killed (-9) after more and more of SQLite's own steps, until it is done: what was acknowledged is there, and
    each day's sum is true.
    """
    ledger = Ledger(tmp_path / "spent.sqlite")
    for number in (9, 8):
        await spend(ledger, number, 100)
        await ledger.start("working", [(day(number), 7)], noon(number))
    ledger.close()
    file = File(tmp_path / "spent.sqlite")
    acknowledged, left = 0, [file.entries(day(9)) + file.entries(day(8))]
    for steps in (5, 60, 200, 500, 1000, 2000, 4000, 8000, 16000):
        found = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _PRUNING, str(file.path), str(steps)],
            capture_output=True,
            timeout=60,
            check=False,
            cwd=Path(__file__).parents[3],
        )
        assert found.returncode == -9, found.stderr
        acknowledged += found.stdout.count(b"1")
        assert file.value("SELECT settled + open FROM counters WHERE name = ?", day(9)) == 507
        assert file.value("SELECT settled + open FROM counters WHERE name = ?", day(8)) == 507
        assert file.settled(day(0)) >= acknowledged
        assert file.entries(day(0)) == file.settled(day(0))
        assert file.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        left.append(file.entries(day(9)) + file.entries(day(8)))
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 3, "killed between two steps, too"
    assert (left[0], left[-1]) == (402, 0)


_FIRST = """
CREATE TABLE entries (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, lease TEXT NOT NULL,
  event TEXT NOT NULL CHECK (event IN ('start', 'settle')),
  counter TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0), UNIQUE (lease, event, counter)
) STRICT;
CREATE INDEX entries_by_counter ON entries (counter, lease, event, amount, at);
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


async def test_a_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA journal_mode = WAL")
    old.executescript(_FIRST)
    rows = [
        ("done", "start", 10),
        ("done", "settle", 4),
        ("working", "start", 7),
        ("unannounced", "settle", 2),
    ]
    rows += [(f"many-{n}", "settle", 1) for n in range(5000)]
    old.execute("BEGIN")
    for name in (day(0), "cap"):
        old.executemany(
            "INSERT INTO entries (at, lease, event, counter, amount) VALUES (?, ?, ?, ?, ?)",
            [(noon(0), lease, event, name, amount) for lease, event, amount in rows],
        )
    old.execute("COMMIT")
    old.close()
    before = path.stat().st_size
    ledger = Ledger(path)
    for name in (day(0), "cap"):
        account = await ledger.account(name, noon(0) - 1)
        assert account.spent == 5006
        assert account.open == (("working", 7, noon(0)),)
        assert len(account.settled) == 5002
    assert await ledger.start("done", [(day(0), 10)], noon(0)) is Entered.AGAIN
    assert await ledger.settle("working", [(day(0), 3)], noon(0)) == {day(0): 3}
    assert (await ledger.account(day(0), noon(0))).spent == 5009
    ledger.close()
    file = File(path)
    assert file.value("PRAGMA auto_vacuum") == 2, "it can become smaller"
    assert file.value("SELECT ends FROM counters WHERE name = ?", day(0)) == TODAY + DAY
    assert file.size() < before / 3


async def test_two_processes_that_open_an_old_file_at_once_take_it_over_once(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old = sqlite3.connect(path)
    old.executescript(_FIRST)
    old.execute("INSERT INTO entries VALUES (1, 1.0, 'lease', 'settle', 'cap', 5)")
    old.commit()
    old.close()
    ledgers = await asyncio.gather(*[asyncio.to_thread(Ledger, path) for _ in range(4)])
    for ledger in ledgers:
        assert (await ledger.account("cap", 0.0)).spent == 5
        ledger.close()
