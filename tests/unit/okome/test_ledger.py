"""The ledger's writes: what is waiting is written together, and nobody is told before it is on the disk."""

import asyncio
import multiprocessing
import sqlite3
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from okome import Ledger
from okome.ledger_file import Entered

pytestmark = pytest.mark.anyio

_CALLERS = 40
_WAL_HEADER, _FRAME_HEADER = 32, 24  # bytes; https://www.sqlite.org/fileformat2.html#walformat


def commits(database: Path) -> int:
    """Transactions in its write-ahead log: the last frame of each says how large the database is then."""
    log = Path(f"{database}-wal").read_bytes()
    (page,) = struct.unpack_from(">I", log, 8)
    frames = range(_WAL_HEADER, len(log), _FRAME_HEADER + page)
    return sum(struct.unpack_from(">I", log, frame + 4)[0] != 0 for frame in frames)


async def test_what_waits_for_the_disk_waits_for_it_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    before = commits(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # the first one waits, and so all others come meanwhile
        starts = [asyncio.create_task(ledger.start(f"lease-{n}", [("cap", n)], 1.0)) for n in range(_CALLERS)]
        await asyncio.sleep(0.2)
        assert not any(start.done() for start in starts)  # nothing is acknowledged that is not written
        other.execute("ROLLBACK")
        assert await asyncio.wait_for(asyncio.gather(*starts), 30) == [Entered.NEW] * _CALLERS
        assert other.execute("SELECT count(*), sum(amount) FROM entries").fetchone() == (
            _CALLERS,
            sum(range(_CALLERS)),
        )
    assert commits(path) - before <= 2
    ledger.close()


async def test_each_of_those_written_together_gets_its_own_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    said = tuple(
        await asyncio.gather(
            ledger.start("a", [("cap", 3)], 1.0),
            ledger.start("a", [("cap", 3)], 2.0),
            ledger.settle("a", [("cap", 5)], 3.0),
            ledger.settle("a", [("cap", 7)], 4.0),
            ledger.settle("b", [("cap", 1)], 5.0),
        )
    )
    assert said == (Entered.NEW, Entered.AGAIN, {"cap": 5}, {"cap": 5}, {"cap": 1})
    assert (await ledger.account("cap", 0.0)).spent == 6
    ledger.close()


async def test_what_can_not_be_entered_fails_alone(tmp_path: Path) -> None:
    """One lease that is wrong in any way hits none of those that are written with it, and leaves nothing of itself."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        asked = [
            asyncio.create_task(ledger.start("good-1", [("cap", 1)], 1.0)),
            asyncio.create_task(ledger.start("negative", [("cap", 5), ("other", -1)], 1.0)),
            asyncio.create_task(ledger.start("no number", [("cap", 5), ("other", "many")], 1.0)),  # type: ignore[list-item]
            asyncio.create_task(ledger.start("too large", [("cap", 5), ("other", 2**63)], 1.0)),
            asyncio.create_task(ledger.settle("no time", [("cap", 5)], None)),  # type: ignore[arg-type]
            asyncio.create_task(ledger.start("good-2", [("cap", 2)], 1.0)),
        ]
        await asyncio.sleep(0.2)
        assert not any(one.done() for one in asked)
        before = commits(path)
        other.execute("ROLLBACK")
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        assert commits(path) - before <= 2, "the good ones went together all the same"
    assert (found[0], found[-1]) == (Entered.NEW, Entered.NEW)
    kinds = [type(one) for one in found[1:-1]]
    assert kinds == [sqlite3.IntegrityError, sqlite3.IntegrityError, OverflowError, sqlite3.IntegrityError]
    assert ledger.trouble is None
    account = await ledger.account("cap", 0.0)
    assert (account.spent, account.open) == (0, (("good-1", 1, 1.0), ("good-2", 2, 1.0)))
    assert (await ledger.account("other", 0.0)).open == ()
    ledger.close()


async def test_a_file_that_fails_all_fails_all_and_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ALTER TABLE counters RENAME TO elsewhere")
        asked = [asyncio.create_task(ledger.start(f"lease-{n}", [("cap", n)], 1.0)) for n in range(5)]
        await asyncio.sleep(0.2)
        other.execute("COMMIT")
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        assert all(isinstance(one, sqlite3.OperationalError) for one in found)
        assert ledger.trouble == "the ledger fails: no such table: counters"
        other.execute("ALTER TABLE elsewhere RENAME TO counters")
    assert await ledger.start("later", [("cap", 1)], 1.0) is Entered.NEW
    assert ledger.trouble is None
    ledger.close()


async def test_who_waits_for_a_locked_file_waits_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each in turn, as long as it takes; and for a while nobody waits who comes later."""
    monkeypatch.setattr("okome.ledger.BUSY", 0.5)
    monkeypatch.setattr("okome.ledger.PAUSE", 600.0)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    waits = 0

    def traced(statement: str) -> None:
        nonlocal waits
        waits += statement.startswith("BEGIN")

    ledger._thread.submit(lambda: ledger._connected().set_trace_callback(traced)).result()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(ledger.start("first", [("cap", 1)], 1.0))
        await asyncio.sleep(0.1)
        rest = [asyncio.create_task(ledger.start(f"lease-{n}", [("cap", n)], 1.0)) for n in range(3)]
        found = await asyncio.wait_for(asyncio.gather(first, *rest, return_exceptions=True), 30)
        assert [str(one) for one in found] == ["database is locked"] * 4
        with pytest.raises(sqlite3.OperationalError, match="locked: so it was a moment ago"):
            await ledger.start("late", [("cap", 1)], 1.0)
        assert waits == 1
        other.execute("ROLLBACK")
    monkeypatch.setattr(ledger, "_locked_until", 0.0)  # the pause is over
    assert await ledger.start("later", [("cap", 1)], 1.0) is Entered.NEW
    ledger.close()


async def test_under_a_lasting_lock_one_tries_now_and_then_and_all_others_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after a pause is one of many: one of them waits, for a moment."""
    monkeypatch.setattr("okome.ledger.BUSY", 0.2)
    monkeypatch.setattr("okome.ledger.PAUSE", 0.05)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    tries: list[str] = []
    ledger._thread.submit(
        lambda: ledger._connected().set_trace_callback(
            lambda said: tries.append(said) if "busy_timeout" in said or said.startswith("BEGIN") else None
        )
    ).result()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for rounds in range(1, 5):
            asked = [ledger.start(f"{rounds}-{n}", [("cap", n)], 1.0) for n in range(50)]
            found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
            assert all(isinstance(one, sqlite3.OperationalError) for one in found)
            told = sum("a moment ago" in str(one) for one in found)
            assert told == (0 if rounds == 1 else 49)
            assert tries.count("BEGIN IMMEDIATE") == rounds
            await asyncio.sleep(0.1)  # the pause is over
        assert ledger.trouble == "another process holds the ledger's file"
        assert [said for said in tries if "PRAGMA" in said] == [
            "PRAGMA busy_timeout = 200",
            *["PRAGMA busy_timeout = 50"] * 3,
        ]
        other.execute("ROLLBACK")
    assert await ledger.look() is None
    assert await ledger.start("later", [("cap", 1)], 1.0) is Entered.NEW
    ledger.close()


async def test_a_disk_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okome.ledger.STALLED", 0.2)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    stalled = threading.Event()
    ledger._thread.submit(stalled.wait, 60)
    for ask in (ledger.start("lease", [("cap", 1)], 1.0), ledger.account("cap", 0.0)):
        with pytest.raises(sqlite3.OperationalError, match="does not answer"):
            await ask
    assert ledger.trouble == "the ledger's disk does not answer"
    stalled.set()
    assert (await ledger.account("cap", 0.0)).open == (), "what was given up before its turn is not written"
    assert await ledger.start("lease", [("cap", 1)], 1.0) is Entered.NEW
    assert ledger.trouble is None
    ledger.close()


async def test_a_probe_that_was_given_up_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is held, and then its disk does not even answer."""
    monkeypatch.setattr("okome.ledger.BUSY", 0.1)
    monkeypatch.setattr("okome.ledger.PAUSE", 0.0)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await ledger.start("first", [("cap", 1)], 1.0)
        other.execute("ROLLBACK")
    monkeypatch.setattr("okome.ledger.STALLED", 0.1)
    stalled = threading.Event()
    ledger._thread.submit(stalled.wait, 60)
    with pytest.raises(sqlite3.OperationalError, match="does not answer"):
        await ledger.start("probe", [("cap", 1)], 1.0)
    monkeypatch.setattr("okome.ledger.STALLED", 30.0)
    stalled.set()
    await ledger.account("cap", 0.0)  # the one thread has had its turn
    assert await ledger.start("next", [("cap", 1)], 1.0) is Entered.NEW
    ledger.close()


def _ask(ledger: Ledger, answer: "multiprocessing.SimpleQueue[str]") -> None:
    """In a child. What it inherited ends with it as well: it leaves as any program does."""
    asks = [
        lambda: asyncio.run(ledger.start("lease", [("cap", 1)], 1.0)),
        lambda: asyncio.run(ledger.settle("lease", [("cap", 1)], 1.0)),
        lambda: asyncio.run(ledger.account("cap", 0.0)),
        lambda: asyncio.run(ledger.counters("cap")),
        lambda: asyncio.run(ledger.reserve("lease", [("cap", 1, 9)], 1.0)),
        ledger.close,
    ]
    for ask in asks:
        try:
            ask()
        except RuntimeError as error:
            answer.put(str(error))
    own = Ledger(ledger._path)
    asyncio.run(own.settle("child", [("cap", 10)], 1.0))
    own.close()
    sys.exit(0)


def test_a_child_is_told_to_open_it_anew_and_its_parent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write: the child by a ledger of its own, the parent by the one that was open before the fork."""
    for limit in ("BUSY", "STALLED"):  # a parent that writes all the time leaves others little room
        monkeypatch.setattr(f"okome.ledger.{limit}", 60.0)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    asyncio.run(ledger.settle("before", [("cap", 1)], 1.0))
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    children = [fork.Process(target=_ask, args=(ledger, answer)) for _ in range(2)]
    for child in children:
        child.start()
    for n in range(50):
        asyncio.run(ledger.settle(f"meanwhile-{n}", [("cap", 1)], 1.0))
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    for _ in range(2 * 6):
        assert answer.get() == "this Ledger belongs to the process that opened it: open it anew after a fork"
    asyncio.run(ledger.settle("after", [("cap", 1)], 1.0))
    assert asyncio.run(ledger.account("cap", 0.0)).spent == 1 + 50 + 10 + 1, (
        "one of the children was the first"
    )
    ledger.close()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_process_that_inherits_it_and_exits_leaves_it_whole(tmp_path: Path) -> None:
    """os.fork, and an exit in which Python closes what it knows of: the write-ahead log stays the parent's."""
    script = """
import asyncio, os, sys
from okome import Ledger
ledger = Ledger(sys.argv[1])
asyncio.run(ledger.settle("before", [("cap", 1)], 1.0))
if not os.fork():
    sys.exit(0)
_, status = os.wait()
assert status == 0, status
asyncio.run(ledger.settle("after", [("cap", 1)], 1.0))
print(asyncio.run(ledger.account("cap", 0.0)).spent, flush=True)
os._exit(0)
"""
    path = tmp_path / "ledger.sqlite"
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "2\n", "")
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT settled FROM counters").fetchall() == [(2,)]
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_fork_amid_a_write_leaves_the_child_no_lock_that_nobody_holds(tmp_path: Path) -> None:
    """SQLite knows of a process's own locks without asking the system, and so does a child of what it never had."""
    script = """
import asyncio, os, sys, threading, time
import okome.ledger
from okome import Ledger
from okome import ledger_file
okome.ledger.BUSY = 5.0
writing, enter = threading.Event(), ledger_file.enter_settlement
def slowly(*arguments):
    writing.set()
    time.sleep(0.3)
    return enter(*arguments)
ledger = Ledger(sys.argv[1])
ledger_file.enter_settlement = slowly
thread = threading.Thread(target=lambda: asyncio.run(ledger.settle("parent", [("cap", 1)], 1.0)))
thread.start()
writing.wait(10)
if not os.fork():
    own = Ledger(sys.argv[1])
    asyncio.run(own.settle("child", [("cap", 10)], 1.0))
    own.close()
    os._exit(0)
_, status = os.wait()
thread.join()
assert status == 0, status
asyncio.run(ledger.settle("after", [("cap", 100)], 1.0))
print(asyncio.run(ledger.account("cap", 0.0)).spent, flush=True)
ledger.close()
"""
    said = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path / "ledger.sqlite")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (said.returncode, said.stdout) == (0, "111\n"), said.stderr


@pytest.mark.anyio
async def test_a_closed_ledger_says_so_to_each(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    for lease in ("a", "b"):
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="shutdown"):
                await ledger.start(lease, [("c", 1)], 1.0)
