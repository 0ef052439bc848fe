"""The ledger's file: what stands in it, how it is read, and what goes when its period is over.

Two tables. `entries` has a row for each start and each settlement of each cap, and is append-only. `counters` has for
each cap, whom it is for and the period what these add up to, kept by a trigger in the same transaction: what is left is
one look-up, however many entries there are.

What is open (its period is not over, or not for long enough) can be neither changed nor deleted. Ended periods are
pruned: PRUNE_AFTER their end a counter is closed: what was started and never settled is charged, as in Redis, and its
entries go; KEEP_SUMS later the counter as well. The sums hold from the moment that it is closed, so that a crash
between two steps loses nothing. Nothing is said to be over that this host's own clock or Redis's holds to be open.
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from okome.rules import period_end

log = logging.getLogger(__name__)

PRUNE_AFTER = 86400  # s from the end of a period; so long Redis keeps its counter as well
KEEP_SUMS = 92 * 86400  # s from the end of a period: three months of days, whose sums can be read
PRUNED = 1000  # entries, counters and pages at a time, which is a few ms
_SLACK = 4  # a file of which less than a quarter is free is left as it is: new entries go there
_PAGES = 256  # free pages that are not worth giving back, 1 MB
_WAL_LEFT = 16 * 1024 * 1024  # bytes of the write-ahead log that may stay when it is empty
VERSION = 2  # of the tables, as PRAGMA user_version

_SCHEMA = """
CREATE TABLE counters (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,                                  -- a cap, whom it is for (digest), the period
  ends INTEGER,                                               -- of the period, seconds since the epoch
  settled INTEGER NOT NULL DEFAULT 0 CHECK (settled >= 0),
  open INTEGER NOT NULL DEFAULT 0 CHECK (open >= 0),          -- started and not settled
  closed INTEGER NOT NULL DEFAULT 0 CHECK (closed IN (0, 1, 2)) -- 1: its entries go, 2: they are gone
) STRICT;
CREATE INDEX counters_by_end ON counters (closed, ends);
CREATE TABLE entries (
  counter INTEGER NOT NULL REFERENCES counters,
  lease TEXT NOT NULL,                                        -- digest of its id and of all it is charged to
  event TEXT NOT NULL CHECK (event IN ('start', 'settle')),
  amount INTEGER NOT NULL CHECK (amount >= 0),
  at REAL NOT NULL,                                           -- seconds since the epoch
  PRIMARY KEY (counter, lease, event)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER entered AFTER INSERT ON entries BEGIN
  UPDATE counters SET
    settled = settled + iif(NEW.event = 'settle', NEW.amount, 0),
    open = open + iif(NEW.event = 'start',
      iif(EXISTS (SELECT 1 FROM entries WHERE counter = NEW.counter AND lease = NEW.lease AND event = 'settle'),
        0, NEW.amount),
      -coalesce((SELECT amount FROM entries
        WHERE counter = NEW.counter AND lease = NEW.lease AND event = 'start'), 0))
  WHERE id = NEW.counter;
END;
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries
  WHEN (SELECT closed FROM counters WHERE id = OLD.counter) = 0
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_rewriting BEFORE UPDATE ON counters
  WHEN NEW.settled < OLD.settled OR NEW.closed < OLD.closed OR NEW.name IS NOT OLD.name OR NEW.ends IS NOT OLD.ends
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_forgetting BEFORE DELETE ON counters WHEN OLD.closed < 2
  BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""

_COUNTER = "SELECT id, closed, settled + open FROM counters WHERE name = ?"
_NEW_COUNTER = "INSERT INTO counters (name, ends) VALUES (?, ?)"
_INSERT = (
    "INSERT INTO entries (counter, lease, event, amount, at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (counter, lease, event) DO NOTHING"  # of all that may be wrong, only that
)
_ENTERED = "SELECT event, amount FROM entries WHERE counter = ? AND lease = ?"
_SPENT = "SELECT coalesce((SELECT settled FROM counters WHERE name = ?), 0)"
_OPEN = """
SELECT lease, amount, at FROM entries AS started
WHERE counter = (SELECT id FROM counters WHERE name = ? AND closed = 0) AND event = 'start' AND NOT EXISTS
  (SELECT 1 FROM entries WHERE counter = started.counter AND lease = started.lease AND event = 'settle')
"""
_SETTLED = """
SELECT lease, amount, at FROM entries
WHERE counter = (SELECT id FROM counters WHERE name = ? AND closed = 0) AND event = 'settle' AND at > ?
"""
_NAMES = "SELECT name FROM counters WHERE name >= ? AND name < ? AND closed = 0"

_CLOSE = """
UPDATE counters SET closed = 1, settled = settled + open, open = 0
WHERE id IN (SELECT id FROM counters WHERE closed = 0 AND ends <= ? LIMIT ?)
"""
_CLOSED = "SELECT id FROM counters WHERE closed = 1 LIMIT 1"
_PRUNE = """
DELETE FROM entries WHERE counter = ?1 AND (lease, event) IN
  (SELECT lease, event FROM entries WHERE counter = ?1 LIMIT ?2)
"""
_EMPTY = "UPDATE counters SET closed = 2 WHERE id = ?"
_FORGET = "DELETE FROM counters WHERE id IN (SELECT id FROM counters WHERE closed = 2 AND ends <= ? LIMIT ?)"


@dataclass(frozen=True, slots=True)
class Account:
    """One counter by the book. `open` and `settled`: (lease, amount, at); settled only since the time asked
    for.
    """

    spent: int
    open: tuple[tuple[str, int, float], ...]
    settled: tuple[tuple[str, int, float], ...]


class Entered(Enum):
    """What became of a lease's start, or would become of it."""

    NEW = "new"
    AGAIN = "again"  # it was said already
    OVER = "over"  # it does not fit: nothing was entered
    ENDED = "ended"  # it was settled already: nothing was entered


def open_file(path: str, busy: float) -> sqlite3.Connection:
    """`busy`: seconds to wait for others."""
    connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
    deadline = time.monotonic() + busy
    while True:
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that is new
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LEFT}")
            if _value(connection, "PRAGMA user_version") < VERSION:
                _create(connection)
        except BaseException as error:
            # Switching to WAL does not wait for the busy time when two processes are first at once.
            if (
                isinstance(error, sqlite3.OperationalError)
                and "locked" in str(error)
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
                continue
            connection.close()
            raise
        return connection


def _value(connection: sqlite3.Connection, question: str) -> int:
    (value,) = connection.execute(question).fetchone()
    return int(value)


def _create(connection: sqlite3.Connection) -> None:
    """The tables, with what stands in those of the first version: entries that named their counter each."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _value(connection, "PRAGMA user_version") == VERSION:  # another process was first
            connection.execute("ROLLBACK")
            return
        before = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone()
        if before:
            for trigger in ("no_update", "no_delete"):
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            connection.execute("ALTER TABLE entries RENAME TO entries_before")
        _execute_each(connection, _SCHEMA)
        if before:
            names = connection.execute("SELECT DISTINCT counter FROM entries_before").fetchall()
            connection.executemany(_NEW_COUNTER, [(name, period_end(name)) for (name,) in names])
            connection.execute(
                "INSERT INTO entries (counter, lease, event, amount, at)"
                " SELECT counters.id, lease, event, amount, at FROM entries_before"
                " JOIN counters ON name = counter ORDER BY counters.id, lease, event"
            )
            connection.execute("DROP TABLE entries_before")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if before:
        try:
            connection.execute("VACUUM")  # or the file can't become smaller
        except sqlite3.Error as error:
            log.warning("the ledger's file stays as large as it is: %s", error)


def _execute_each(connection: sqlite3.Connection, script: str) -> None:
    """As executescript, which would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def enter_start(
    connection: sqlite3.Connection,
    lease: str,
    charges: Sequence[tuple[str, int]],
    at: float,
    limits: Sequence[int] | None,
) -> Entered:
    """`limits`: of the charges in turn; then it is entered only if it fits all of them. Inside a transaction."""
    found = [connection.execute(_COUNTER, (name,)).fetchone() for name, _ in charges]
    if limits is not None:
        said = _fits(connection, lease, charges, found, limits)
        if said is not Entered.NEW:
            return said
    new = 0
    for (name, amount), counter in zip(charges, found, strict=True):
        number = _number(connection, name, counter)
        if number is not None:
            new += connection.execute(_INSERT, (number, lease, "start", amount, at)).rowcount
    return Entered.NEW if new else Entered.AGAIN


def _fits(
    connection: sqlite3.Connection,
    lease: str,
    charges: Sequence[tuple[str, int]],
    found: Sequence[tuple[int, int, int] | None],
    limits: Sequence[int],
) -> Entered:
    said = Entered.NEW
    for (_, amount), counter, limit in zip(charges, found, limits, strict=True):
        number, _, spent = counter or (0, 0, 0)
        entered = dict(connection.execute(_ENTERED, (number, lease)).fetchall())
        if "settle" in entered:
            return Entered.ENDED
        if "start" in entered:
            said = Entered.AGAIN
        elif amount and spent + amount > limit:
            said = Entered.OVER
    return said


def enter_settlement(
    connection: sqlite3.Connection, lease: str, charges: Sequence[tuple[str, int]], at: float
) -> dict[str, int]:
    """The first one of a lease stands: its amounts, by counter. Of one that is closed nothing is entered any more: the
    start was charged. Inside a transaction.
    """
    stands = {}
    for name, amount in charges:
        number = _number(connection, name, connection.execute(_COUNTER, (name,)).fetchone())
        stands[name] = amount
        if number is None:
            continue
        if not connection.execute(_INSERT, (number, lease, "settle", amount, at)).rowcount:
            stands[name] = dict(connection.execute(_ENTERED, (number, lease)))["settle"]
    return stands


def _number(connection: sqlite3.Connection, name: str, counter: tuple[int, int, int] | None) -> int | None:
    """Of the counter, which is new if it was not found; None if it is closed."""
    if counter is None:
        return connection.execute(_NEW_COUNTER, (name, period_end(name))).lastrowid
    number, closed, _ = counter
    return None if closed else number


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one lease at one counter. `spent`: of the counter, by all; started counts as if it were settled."""

    spent: int
    started: bool
    settled: bool


def standing(connection: sqlite3.Connection, lease: str, counter: str) -> Standing:
    number, _, spent = connection.execute(_COUNTER, (counter,)).fetchone() or (0, 0, 0)
    events = {event for event, _ in connection.execute(_ENTERED, (number, lease))}
    return Standing(spent, "start" in events, "settle" in events)


def account(connection: sqlite3.Connection, counter: str, settled_since: float) -> Account:
    connection.execute("BEGIN")  # one snapshot for the three
    try:
        (spent,) = connection.execute(_SPENT, (counter,)).fetchone()
        opened = connection.execute(_OPEN, (counter,)).fetchall()
        settled = connection.execute(_SETTLED, (counter, settled_since)).fetchall()
    finally:
        connection.execute("ROLLBACK")
    return Account(spent, tuple(opened), tuple(settled))


def open_counters(connection: sqlite3.Connection, prefix: str) -> list[str]:
    bounds = (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
    return [name for (name,) in connection.execute(_NAMES, bounds)]


def prune(connection: sqlite3.Connection, now: float) -> bool:
    """One step, in a transaction of its own. False if there was nothing to do."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = connection.execute(_CLOSE, (now - PRUNE_AFTER, PRUNED)).rowcount
        rows = 0
        while rows < PRUNED and (counter := connection.execute(_CLOSED).fetchone()):
            room = PRUNED - rows
            gone = connection.execute(_PRUNE, (*counter, room)).rowcount
            if gone < room:
                done += connection.execute(_EMPTY, counter).rowcount
            rows += gone + 1  # a counter without entries is work as well
        done += rows + connection.execute(_FORGET, (now - KEEP_SUMS, PRUNED)).rowcount
        free = _value(connection, "PRAGMA freelist_count")
        if free > _PAGES and free * _SLACK > _value(connection, "PRAGMA page_count"):
            for _ in range(min(free, PRUNED)):  # Python asks for one step of it, whatever the number
                connection.execute("PRAGMA incremental_vacuum(1)")
            done += free
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return done > 0
