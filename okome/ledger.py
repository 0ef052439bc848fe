"""The durable record of what was spent: SQLite at the orchestrator, append-only. Redis can be rebuilt from
it.
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,             -- seconds since the epoch
  lease TEXT NOT NULL,          -- digest of its id and of all it is charged to
  event TEXT NOT NULL CHECK (event IN ('start', 'settle')),
  counter TEXT NOT NULL,        -- a cap, whom it is for (digest), the period
  amount INTEGER NOT NULL CHECK (amount >= 0),
  UNIQUE (lease, event, counter)
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_counter ON entries (counter, lease, event, amount, at);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""

_INSERT = "INSERT OR IGNORE INTO entries (at, lease, event, counter, amount) VALUES (?, ?, ?, ?, ?)"

_ENTERED = "SELECT counter, amount FROM entries WHERE lease = ? AND event = ?"

_SPENT = "SELECT coalesce(sum(amount), 0) FROM entries WHERE counter = ? AND event = 'settle'"

_OPEN = """
SELECT lease, amount, at FROM entries AS started WHERE counter = ? AND event = 'start' AND NOT EXISTS
  (SELECT 1 FROM entries WHERE counter = started.counter AND lease = started.lease AND event = 'settle')
"""

# Each counter once: a step of the index from one to the next, however many entries they have.
_COUNTERS = """
WITH RECURSIVE each (counter) AS (
  SELECT min(counter) FROM entries WHERE counter >= :begin AND counter < :end
  UNION ALL
  SELECT (SELECT min(counter) FROM entries WHERE counter > each.counter AND counter < :end)
  FROM each WHERE counter IS NOT NULL
)
SELECT counter FROM each WHERE counter IS NOT NULL
"""

_SETTLED = "SELECT lease, amount, at FROM entries WHERE counter = ? AND event = 'settle' AND at > ?"

BUSY = 5.0  # s that one process waits for another's write


@dataclass(frozen=True, slots=True)
class Account:
    """One counter by the book. `open` and `settled`: (lease, amount, at); settled only since the time asked
    for.
    """

    spent: int
    open: tuple[tuple[str, int, float], ...]
    settled: tuple[tuple[str, int, float], ...]


class Ledger:
    """Several processes of one host may share the file. Every append is on the disk when it returns (WAL,
    FULL).

    Raises sqlite3.Error where the disk is full, read-only, or locked for longer than BUSY.
    """

    def __init__(self, path: Path | str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        try:
            self._connection = self._thread.submit(self._open, str(path)).result()
        except BaseException:
            self._thread.shutdown()
            raise

    @staticmethod
    def _open(path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        deadline = time.monotonic() + BUSY
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
            except sqlite3.OperationalError as error:
                # Switching to WAL does not wait for the busy time when two processes are first at once.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.01)
            else:
                return connection

    async def start(self, lease: str, charges: Sequence[tuple[str, int]], at: float) -> bool:
        """Work begins that may cost this much: (counter, amount) each. False if it was said already."""
        new, _ = await self._append("start", lease, charges, at)
        return new

    async def settle(self, lease: str, charges: Sequence[tuple[str, int]], at: float) -> dict[str, int]:
        """What it did cost. The first settlement of a lease stands: returns its amounts, by counter."""
        _, stands = await self._append("settle", lease, charges, at)
        return stands

    async def _append(
        self, event: str, lease: str, charges: Sequence[tuple[str, int]], at: float
    ) -> tuple[bool, dict[str, int]]:
        rows = [(at, lease, event, counter, amount) for counter, amount in charges]

        def insert() -> tuple[bool, dict[str, int]]:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                inserted = self._connection.executemany(_INSERT, rows).rowcount
                stands = dict(self._connection.execute(_ENTERED, (lease, event)).fetchall())
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return inserted > 0, stands

        # Cancelling the caller does not undo what is under way.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, insert))

    async def account(self, counter: str, settled_since: float) -> Account:
        def read() -> Account:
            self._connection.execute("BEGIN")  # one snapshot for the three
            try:
                (spent,) = self._connection.execute(_SPENT, (counter,)).fetchone()
                opened = self._connection.execute(_OPEN, (counter,)).fetchall()
                settled = self._connection.execute(_SETTLED, (counter, settled_since)).fetchall()
            finally:
                self._connection.execute("ROLLBACK")
            return Account(spent, tuple(opened), tuple(settled))

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def counters(self, prefix: str) -> list[str]:
        """Those there are, by the beginning of their names."""
        bounds = {"begin": prefix, "end": prefix[:-1] + chr(ord(prefix[-1]) + 1)}

        def read() -> list[str]:
            return [counter for (counter,) in self._connection.execute(_COUNTERS, bounds)]

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()
