"""The durable record of what was spent: SQLite at the orchestrator, append-only. Redis can be rebuilt from
it.
"""

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
PAUSE = 1.0  # s for which nobody waits any more, once that was in vain


@dataclass(frozen=True, slots=True)
class Account:
    """One counter by the book. `open` and `settled`: (lease, amount, at); settled only since the time asked
    for.
    """

    spent: int
    open: tuple[tuple[str, int, float], ...]
    settled: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class _Append:
    """`done`: whether it is new, and what stands, by counter; set when it is on the disk."""

    event: str
    lease: str
    rows: list[tuple[float, str, str, str, int]]
    done: "Future[tuple[bool, dict[str, int]]]"


class Ledger:
    """Several processes of one host may share the file. Every append is on the disk when it returns (WAL,
    FULL). Those that come while another is being written go there together, in one transaction: the disk is waited
    for once. If it fails, it has failed for all of them. Where another process holds the file for longer than BUSY,
    it fails for all who came meanwhile too, and for who comes within the next PAUSE.

    Raises sqlite3.Error where the disk is full, read-only, or locked; RuntimeError in a child of the process that
    opened it: SQLite's connections and this thread do not outlive a fork.
    """

    def __init__(self, path: Path | str) -> None:
        self._process = os.getpid()
        self._locked: sqlite3.Error | None = None
        self._locked_until = float("-inf")  # monotonic
        self._appends: deque[_Append] = deque()
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
        self._require_own()
        rows = [(at, lease, event, counter, amount) for counter, amount in charges]
        append = _Append(event, lease, rows, Future())
        self._appends.append(append)
        self._thread.submit(self._write)
        # Cancelling the caller does not undo what is under way.
        return await asyncio.shield(asyncio.wrap_future(append.done))

    def _write(self) -> None:
        """All that is waiting. There is a call for each, so that most of them find nothing left to do."""
        batch = self._waiting()
        if not batch:
            return
        if self._locked is not None and time.monotonic() < self._locked_until:
            _fail(batch, self._locked)
            return
        self._locked = None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found = [self._insert(append) for append in batch]
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it by itself
                    self._connection.execute("ROLLBACK")
                raise
        except BaseException as error:  # noqa: BLE001  # each caller's
            if isinstance(error, sqlite3.Error) and _is_locked(error):
                self._locked, self._locked_until = error, time.monotonic() + PAUSE
                batch += self._waiting()
            _fail(batch, error)
        else:
            for append, result in zip(batch, found, strict=True):
                append.done.set_result(result)

    def _waiting(self) -> list[_Append]:
        batch = []
        while self._appends:  # only this thread takes any out
            batch.append(self._appends.popleft())
        return batch

    def _require_own(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this Ledger belongs to the process that opened it: open it anew after a fork")

    def _insert(self, append: _Append) -> tuple[bool, dict[str, int]]:
        inserted = self._connection.executemany(_INSERT, append.rows).rowcount
        stands = self._connection.execute(_ENTERED, (append.lease, append.event)).fetchall()
        return inserted > 0, dict(stands)

    async def account(self, counter: str, settled_since: float) -> Account:
        self._require_own()

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
        self._require_own()
        bounds = {"begin": prefix, "end": prefix[:-1] + chr(ord(prefix[-1]) + 1)}

        def read() -> list[str]:
            return [counter for (counter,) in self._connection.execute(_COUNTERS, bounds)]

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()


def _fail(batch: list[_Append], error: BaseException) -> None:
    for append in batch:
        append.done.set_exception(error)


def _is_locked(error: sqlite3.Error) -> bool:
    # The lower byte says what it is, the rest in which way; https://www.sqlite.org/rescode.html
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
