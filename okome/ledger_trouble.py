"""What is the matter with the ledger's file, by what SQLite says and by its disk."""

import os
import sqlite3
from pathlib import Path

_FULL = 64 * 1024  # bytes; with less than that left a disk is full

# The lower byte says what it is, the rest in which way; https://www.sqlite.org/rescode.html
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BROKEN = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL,
}
_ALL = _LOCKED | _BROKEN | {sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}

OWN = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What says something about an entry, and nothing about the file."""


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_locked(error: BaseException) -> bool:
    """By another process."""
    return _code(error) in _LOCKED


def is_broken(error: BaseException) -> bool:
    """The connection is of no use any more: it may hold on to a file that is another one by now."""
    return _code(error) in _BROKEN


def concerns_all(error: BaseException) -> bool:
    """Those who are written together, and not one of them."""
    return _code(error) in _ALL


def said(error: BaseException, path: str) -> str:
    """In one sentence."""
    code = _code(error)
    if code in _LOCKED:
        return "another process holds the ledger's file"
    if code == sqlite3.SQLITE_FULL:
        return "the ledger's disk is full"
    if code == sqlite3.SQLITE_READONLY:
        return "the ledger's disk is read-only"
    return _of_disk(path) or f"the ledger fails: {error}"


def _of_disk(path: str) -> str | None:
    """By the disk itself: SQLite does not always tell."""
    try:
        disk = os.statvfs(Path(path).parent)
    except OSError as error:
        return f"the ledger's disk fails: {error.strerror}"
    if disk.f_flag & os.ST_RDONLY:
        return "the ledger's disk is read-only"
    if disk.f_bavail * disk.f_frsize < _FULL:
        return "the ledger's disk is full"
    return None


def may_pass(error: sqlite3.Error, path: str) -> bool:
    """Whether it says nothing against the path: then the file may be opened later."""
    code = _code(error)
    return code in _ALL - _BROKEN or (
        code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        and Path(path).parent.is_dir()
        and _of_disk(path) is not None
    )
