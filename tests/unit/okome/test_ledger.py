"""The ledger's writes: what is waiting is written together, and nobody is told before it is on the disk."""

import asyncio
import sqlite3
import struct
from pathlib import Path

import pytest

from okome import Ledger

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
        assert await asyncio.wait_for(asyncio.gather(*starts), 30) == [True] * _CALLERS
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
    assert said == (True, False, {"cap": 5}, {"cap": 5}, {"cap": 1})
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
    assert await ledger.start("later", [("cap", 1)], 1.0)
    ledger.close()
