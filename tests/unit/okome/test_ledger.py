"""The ledger's writes: what is waiting is written together, and nobody is told before it is on the disk."""

import asyncio
import multiprocessing
import sqlite3
import struct
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


async def test_a_failure_is_told_to_all_who_waited_and_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ALTER TABLE entries RENAME TO elsewhere")
        asked = [asyncio.create_task(ledger.start(f"lease-{n}", [("cap", n)], 1.0)) for n in range(5)]
        await asyncio.sleep(0.2)
        other.execute("COMMIT")
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        assert all(isinstance(one, sqlite3.OperationalError) for one in found)
        other.execute("ALTER TABLE elsewhere RENAME TO entries")
    assert await ledger.start("later", [("cap", 1)], 1.0) is Entered.NEW
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


def _ask(ledger: Ledger, answer: "multiprocessing.SimpleQueue[str]") -> None:
    for ask in (ledger.start("lease", [("cap", 1)], 1.0), ledger.account("cap", 0.0), ledger.counters("cap")):
        try:
            asyncio.run(ask)
        except RuntimeError as error:
            answer.put(str(error))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # it is what is tried
def test_a_child_of_its_process_is_told_to_open_it_anew(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=_ask, args=(ledger, answer))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    for _ in range(3):
        assert answer.get() == "this Ledger belongs to the process that opened it: open it anew after a fork"
    ledger.close()
