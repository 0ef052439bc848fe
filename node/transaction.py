"""Swaps a set of files on the node as one transaction. Standard library only.

This text is sent to the node and run there by `python3 -I -`; `operations.primitives.config_set` appends the call of
`main` with the request. So no secret is ever in a command line, and a request cut short in transit is a
syntax error that changes nothing.

The journal says how far a transaction came. A run that died in the middle (killed, or the power was cut) is
undone by the next transaction on the node, whichever set that one is for:

    staging    new files are being laid beside the old ones; nothing of ours is in place
    swapping   some files may be new, some old, none is checked: all go back
    done       the checker agreed: only leftovers and outdated stamps are to be removed
"""

import base64
import contextlib
import fcntl
import grp
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = "/var/lib/okome"
LOCK_SECONDS = 90  # longer than any checker may take, so an orphaned run of a lost connection ends first
CHECK_SECONDS = 60


class RefusedError(Exception):
    """Nothing was changed, or all of it was put back; the message says why."""


def beside(path: str, suffix: str) -> Path:
    """The staged or kept file of a path: hidden, in its folder (so that the swap is one rename), and with a
    dpkg suffix, which everything that reads a `.d` folder on Debian passes over."""
    return Path(path).parent / f".{Path(path).name}.okome.dpkg-{suffix}"


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
    """Owner and mode are set before the first byte lands. O_EXCL: a folder may be the service user's own."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def note(state: Path, phase: str, files: list[list[Any]]) -> None:
    journal = json.dumps({"phase": phase, "files": files}).encode()
    write_new(state / "journal.new", journal, 0o644, os.getuid(), os.getgid())
    (state / "journal.new").replace(state / "journal")
    sync_folder(state)


def forget_applied(state: Path, paths: set[str]) -> None:
    """A unit that runs with one of these files has to be told again, whatever its stamp says."""
    for stamp in (state / "applied").glob("*"):
        if paths.intersection(stamp.read_text().splitlines()):
            stamp.unlink()


def recover(state: Path) -> None:
    """Bring the node back to where the last transaction began, or tidy up behind one that was completed."""
    try:
        journal = json.loads((state / "journal").read_text())
    except FileNotFoundError:
        return
    folders = set()
    for path, existed in journal["files"]:
        new, old = beside(path, "new"), beside(path, "old")
        if not new.parent.is_dir():
            continue
        if journal["phase"] == "swapping":
            if existed and os.path.lexists(old):
                old.replace(path)
            elif not existed:
                Path(path).unlink(missing_ok=True)
        new.unlink(missing_ok=True)
        old.unlink(missing_ok=True)  # rename(2) leaves both names when they are the same file
        folders.add(new.parent)
    for folder in folders:
        sync_folder(folder)
    if journal["phase"] == "done":
        forget_applied(state, {path for path, _ in journal["files"]})
    (state / "journal").unlink()


def owner_ids(file: dict[str, Any]) -> tuple[int, int]:
    try:
        return pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"]).gr_gid
    except KeyError as error:
        raise RefusedError(f"{file['path']} cannot be placed: {error.args[0]}") from error


def complaint(check: str, paths: list[str]) -> str | None:
    """What the checker says against the files in place; None if it agrees."""
    with subprocess.Popen(
        ["/bin/sh", "-c", check, "check", *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as checker:
        try:
            output, _ = checker.communicate(timeout=CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(checker.pid, signal.SIGKILL)
            checker.communicate()
            return f"no verdict within {CHECK_SECONDS} s"
    return (output.strip() or f"exit status {checker.returncode}") if checker.returncode else None


def swap(request: dict[str, Any], state: Path) -> None:
    files = request["files"]
    for file in files:
        if Path(file["path"]).is_dir() and not Path(file["path"]).is_symlink():
            raise RefusedError(f"{file['path']} is a directory; a file of ours belongs there")
    ids = [(0, 0) if file["content"] is None else owner_ids(file) for file in files]
    recorded = [[file["path"], os.path.lexists(file["path"])] for file in files]
    note(state, "staging", recorded)
    try:
        for file, (uid, gid) in zip(files, ids, strict=True):
            if file["content"] is not None:
                Path(file["path"]).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                content = base64.b64decode(file["content"])
                write_new(beside(file["path"], "new"), content, int(file["mode"], 8), uid, gid)
        for path, existed in recorded:
            if existed:
                beside(path, "old").unlink(missing_ok=True)
                os.link(path, beside(path, "old"), follow_symlinks=False)
        folders = {Path(path).parent for path, _ in recorded if Path(path).parent.is_dir()}
        for folder in folders:
            sync_folder(folder)
        note(state, "swapping", recorded)
        for file in files:
            if file["content"] is None:
                Path(file["path"]).unlink(missing_ok=True)
            else:
                beside(file["path"], "new").replace(file["path"])
        for folder in folders:
            sync_folder(folder)
        if request["check"]:
            words = complaint(request["check"], request["paths"])
            if words is not None:
                raise RefusedError(f"the new files do not pass their check:\n{words}")
        note(state, "done", recorded)
    finally:
        recover(state)


def lock(state: Path) -> int:
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        if time.monotonic() > deadline:
            raise RefusedError(f"another deploy has been changing files here for {LOCK_SECONDS} s")
        time.sleep(0.2)


def main(text: str) -> int:
    """Run one request: {"files": [{path, owner, group, mode, content}], "paths", "check"}.

    `content` is base64, or null for a file to be removed; `paths` are all paths of the set, which the shell
    command `check` gets as its arguments. Returns the exit status; the reason of a refusal goes to stderr.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a lost connection must not stop us in the middle
    request = json.loads(text)
    state = Path(STATE)
    os.umask(0o022)
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        lock(state)
        recover(state)
        if request["files"]:
            swap(request, state)
    except (RefusedError, OSError) as error:
        half = (state / "journal").exists()
        print(
            "not put back yet, run the deploy again" if half else "nothing was changed",
            error,
            sep=": ",
            file=sys.stderr,
        )
        return 1
    return 0
