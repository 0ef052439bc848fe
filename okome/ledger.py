"""The durable record of what was spent: SQLite at the orchestrator, append-only. Redis can be rebuilt from it, and
while Redis is gone it can decide itself.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from okome import ledger_file
from okome.holds import Holds
from okome.ledger_file import Account, Entered
from okome.ledger_trouble import OWN, concerns_all, is_broken, is_locked, may_pass, said

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY = 5.0  # s that all who come meanwhile wait together for another process's write
PAUSE = 1.0  # s until the next one tries, once that was in vain; all others are told at once
PROBE = 0.05  # s that this one waits
STALLED = 10.0  # s that anybody waits for the disk
PRUNE_EVERY = 60.0  # s between looks for what has ended, if there was nothing


@dataclass(frozen=True, slots=True)
class Reserved:
    """`over`: the charge that does not fit, by its number. `spent`: at each counter by all, with what is held."""

    said: Entered
    spent: tuple[int, ...]
    over: int | None = None


@dataclass(slots=True)
class _Append:
    """`done`: what became of it; told in its own event loop when it is on the disk."""

    lease: str
    enter: Callable[[sqlite3.Connection], Any]
    done: "asyncio.Future[Any]"
    given_up: bool = False
    """Nobody waits for it any more: it need not be begun."""


class Ledger:
    """Several processes of one host may share the file. Every append is on the disk when it returns (WAL,
    FULL). Those that come while another is being written go there together, in one transaction: the disk is waited
    for once. One that can't be entered fails alone.

    Where another process holds the file for longer than BUSY, all who came meanwhile fail; from then on one tries
    every PAUSE, and all others fail at once. A disk that is full, read-only or fails is tried anew by each, opened
    anew where that helps, and so taken up again by itself; also if it was in that state at the beginning. `trouble`
    says what is the matter.

    Raises sqlite3.Error where the disk is full, read-only, or locked; RuntimeError in a child of the process that
    opened it: this thread does not outlive a fork. The child opens one of its own; a fork waits for what is being
    written.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._process = os.getpid()
        self._trouble: str | None = None
        self._locked_until: float | None = None  # monotonic; None: it is not locked, as far as is known
        self._probing = False
        self._looked = float("-inf")  # monotonic
        self._prune_at = float("-inf")  # monotonic
        self._appends: deque[_Append] = deque()
        self._called = False  # somebody is on the way to write them
        self._holds = Holds()
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._forked: threading.Event | None = None  # who is about to fork says by it that this is over
        try:
            self._thread.submit(self._connected).result()
        except sqlite3.Error as error:
            if not may_pass(error, self._path):
                self._thread.shutdown()
                raise
            self._failed(error)
        except BaseException:
            self._thread.shutdown()
            raise
        _LEDGERS.add(self)

    @property
    def trouble(self) -> str | None:
        """Why nothing could be written when last tried, in one sentence; None: it could."""
        return self._trouble

    # What is written

    async def start(
        self,
        lease: str,
        charges: Sequence[tuple[str, int]],
        at: float,
        limits: Sequence[int] | None = None,
    ) -> Entered:
        """Work begins that may cost this much: (counter, amount) each. `limits`: of the charges in turn; then it is
        entered only if it fits: with what is settled and started, in all processes.
        """

        def enter(connection: sqlite3.Connection) -> Entered:
            return ledger_file.enter_start(connection, lease, charges, at, limits)

        entered: Entered = await self._append(lease, enter, at)
        return entered

    async def settle(self, lease: str, charges: Sequence[tuple[str, int]], at: float) -> dict[str, int]:
        """What it did cost. The first settlement of a lease stands: returns its amounts, by counter."""

        def enter(connection: sqlite3.Connection) -> dict[str, int]:
            return ledger_file.enter_settlement(connection, lease, charges, at)

        stands: dict[str, int] = await self._append(lease, enter, at)
        return stands

    async def look(self) -> str | None:
        """As `trouble`; while there is some, by trying to write, once per PAUSE."""
        now = time.monotonic()
        if self._trouble is not None and now >= self._looked + PAUSE:
            self._looked = now

            def enter(connection: sqlite3.Connection) -> None:
                connection.execute(f"PRAGMA user_version = {ledger_file.VERSION}")  # a page to write

            try:
                await self._append("", enter, None)
            except sqlite3.Error:
                log.debug("the ledger can't be written", exc_info=True)
        return self._trouble

    async def _append(self, lease: str, enter: Callable[[sqlite3.Connection], Any], at: float | None) -> Any:
        self._require_own()
        if self._locked_until is not None:
            if self._probing or time.monotonic() < self._locked_until:
                raise sqlite3.OperationalError("database is locked: so it was a moment ago")
            self._probing = True
        append = _Append(lease, enter, asyncio.get_running_loop().create_future())
        self._appends.append(append)
        if not self._called:
            self._called = True
            try:
                self._thread.submit(self._write, at)
            except RuntimeError:  # closed
                self._called = False
                raise
        try:
            async with asyncio.timeout(STALLED):
                return await append.done  # cancelling who waits does not undo what is under way
        except TimeoutError:
            append.given_up = True  # or it is being written, and will count
            self._trouble = "the ledger's disk does not answer"
            raise sqlite3.OperationalError(self._trouble) from None

    def _write(self, at: float | None) -> None:
        """All that is waiting."""
        self._called = False  # first: who comes now is in this batch, or calls for the next one
        batch = self._waiting()
        if not batch:  # given up, all of them
            self._probing = False
            return
        try:
            connection = self._connected()
            busy = BUSY if self._locked_until is None else PROBE
            connection.execute(f"PRAGMA busy_timeout = {round(busy * 1000)}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                entered = self._all_entered(connection, batch)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK")
                raise
        except BaseException as error:  # noqa: BLE001  # each caller's
            self._failed(error)
            if is_locked(error):  # who came meanwhile has waited for the same
                batch += self._waiting()
            _tell([(append, None, error) for append in batch])
            return
        finally:
            self._probing = False
        self._locked_until, self._trouble = None, None
        for append, _, wrong in entered:
            if wrong is None:
                self._holds.release(append.lease)
            elif isinstance(wrong, sqlite3.Error) and not isinstance(wrong, OWN):
                self._failed(wrong)
        _tell(entered)
        if at is not None and time.monotonic() >= self._prune_at:
            self._prune(at)

    def _all_entered(self, connection: sqlite3.Connection, batch: list[_Append]) -> "list[_Outcome]":
        """One by one only if something is wrong with one: each savepoint costs as much as an entry."""
        connection.execute("SAVEPOINT batch")
        try:
            return [(append, append.enter(connection), None) for append in batch]
        except Exception as error:
            if concerns_all(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO batch")
        return [self._entered(connection, append) for append in batch]

    def _entered(self, connection: sqlite3.Connection, append: _Append) -> "_Outcome":
        """Its result, or what is wrong with it alone."""
        connection.execute("SAVEPOINT append")
        try:
            result = append.enter(connection)
        except Exception as error:
            if concerns_all(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO append")
            connection.execute("RELEASE append")
            return append, None, error
        connection.execute("RELEASE append")
        return append, result, None

    def _prune(self, at: float) -> None:
        """Those who wrote have been told. By the clock that is behind: one of the two may be wrong."""
        try:
            more = ledger_file.prune(self._connected(), min(at, time.time()))
        except sqlite3.Error as error:
            log.warning("the ledger could not be pruned: %s", error)
            more = False
        if not more:
            self._prune_at = time.monotonic() + PRUNE_EVERY

    def _waiting(self) -> list[_Append]:
        batch = []
        while self._appends:  # only this thread takes any out
            append = self._appends.popleft()
            if not append.given_up:
                batch.append(append)
        return batch

    # What is read

    async def reserve(self, lease: str, charges: Sequence[tuple[str, int, int]], ttl: float) -> Reserved:
        """Whether it fits: (counter, amount, limit) each, with what is settled and started in all processes, and what
        is held in this one. If so it is held until it begins, is settled, or `ttl` seconds have passed.
        """

        def reserve() -> Reserved:
            connection, now = self._connected(), time.monotonic()
            self._holds.expire(now)
            found = [ledger_file.standing(connection, lease, counter) for counter, _, _ in charges]
            spent = [
                one.spent + self._holds.held(counter)
                for one, (counter, _, _) in zip(found, charges, strict=True)
            ]
            if any(one.settled for one in found):
                return Reserved(Entered.ENDED, tuple(spent))
            if any(one.started for one in found):
                return Reserved(Entered.AGAIN, tuple(spent))
            again = lease in self._holds
            if not again:
                for number, (_, amount, limit) in enumerate(charges):
                    if amount and spent[number] + amount > limit:
                        return Reserved(Entered.OVER, tuple(spent), number)
                    spent[number] += amount
            self._holds.take(lease, {counter: amount for counter, amount, _ in charges}, now + ttl)
            return Reserved(Entered.AGAIN if again else Entered.NEW, tuple(spent))

        return await self._asked(reserve)

    async def release(self, lease: str) -> None:
        """What is held for it."""
        await self._asked(lambda: self._holds.release(lease))

    async def account(self, counter: str, settled_since: float) -> Account:
        return await self._asked(lambda: ledger_file.account(self._connected(), counter, settled_since))

    async def counters(self, prefix: str) -> list[str]:
        """Those there are, by the beginning of their names, of periods that are not closed."""
        return await self._asked(lambda: ledger_file.open_counters(self._connected(), prefix))

    async def _asked(self, question: Callable[[], T]) -> T:
        self._require_own()

        def ask() -> T:
            try:
                return question()
            except sqlite3.Error as error:
                self._failed(error)
                raise

        try:
            async with asyncio.timeout(STALLED):
                return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except TimeoutError:
            self._trouble = "the ledger's disk does not answer"
            raise sqlite3.OperationalError(self._trouble) from None

    # The connection, of which only the thread knows

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = ledger_file.open_file(self._path, BUSY if self._trouble is None else PROBE)
        return self._connection

    def _failed(self, error: BaseException) -> None:
        """Remembers why; and what is broken is opened anew next time."""
        if is_locked(error):
            self._locked_until = time.monotonic() + PAUSE
        if is_broken(error) and self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
        self._trouble = said(error, self._path)

    def _require_own(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this Ledger belongs to the process that opened it: open it anew after a fork")

    def close(self) -> None:
        self._require_own()

        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        self._thread.submit(close).result()
        self._thread.shutdown()

    # Forks

    def park(self) -> None:
        """Has no connection until `go_on`. Within its process SQLite remembers which locks its connections hold of a
        file; a child inherits that, though not the locks: it would wait for ever for a lock that nobody holds, or rely
        on one that it hasn't.
        """
        if os.getpid() != self._process:
            return
        parked, forked = threading.Event(), threading.Event()

        def park() -> None:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
            parked.set()
            forked.wait(STALLED)

        try:
            self._thread.submit(park)
        except RuntimeError:  # closed
            return
        self._forked = forked
        if not parked.wait(STALLED):
            log.warning(
                "the ledger's disk does not answer: a child that is forked now may not be able to open it"
            )

    def go_on(self) -> None:
        if self._forked is not None:
            self._forked.set()
            self._forked = None


_LEDGERS: "weakref.WeakSet[Ledger]" = weakref.WeakSet()


def _park_all() -> None:
    for ledger in list(_LEDGERS):
        ledger.park()


def _go_on_all() -> None:
    for ledger in list(_LEDGERS):
        ledger.go_on()


os.register_at_fork(before=_park_all, after_in_parent=_go_on_all)

_Outcome = tuple[_Append, Any, BaseException | None]


def _tell(outcomes: list[_Outcome]) -> None:
    """Those who wait, by one call into each event loop: each call costs as much as an entry."""
    for loop in {append.done.get_loop() for append, _, _ in outcomes}:
        own = [outcome for outcome in outcomes if outcome[0].done.get_loop() is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_told, own)


def _told(outcomes: list[_Outcome]) -> None:
    for append, result, wrong in outcomes:
        if append.done.done():  # whoever waited was cancelled
            continue
        if wrong is None:
            append.done.set_result(result)
        else:
            append.done.set_exception(wrong)
