"""Swaps a set of files on the node as one transaction. Standard library only.

This text is sent to the node and run there by `python3 -I -`; `operations.primitives.config_set` appends the call of
`main` with the request. So no secret is ever in a command line, and a request cut short in transit is a
syntax error that changes nothing.

The journal says how far a transaction came. A run that died in the middle (killed, or the power was cut) is
undone by the next transaction on the node, whichever set that one is for:

    staging    new files are being laid beside the old ones; nothing of ours is in place
    swapping   some files may be new, some old, none is checked: all go back
    done       the checker agreed: only leftovers and outdated stamps are to be removed

What a unit is proved to run with (`keep`) outlives its transaction: what stood there before is kept below
FORMER until the unit has been told and does its work, and `restore` brings it back if it does not.
"""

import base64
import contextlib
import fcntl
import grp
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = "/var/lib/okome"
FORMER = "former"  # in STATE, root's alone: `files` holds what stood at a path, `none` the paths where nothing stood
# How much longer than the slowest checker another run is waited for: an orphan of a lost connection ends first.
LOCK_MARGIN = 30  # seconds


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


def copy(source: Path, target: Path) -> None:
    """A file with its owner and mode; of a symlink, the link."""
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        target.unlink(missing_ok=True)
        target.symlink_to(source.readlink())
    else:
        mode = stat.S_IMODE(status.st_mode)
        write_new(target, source.read_bytes(), mode, status.st_uid, status.st_gid)


def double(path: Path, second: Path) -> None:
    """A second name for a file; a second file where there are no such names, as on the FAT that a Pi boots from."""
    try:
        os.link(path, second, follow_symlinks=False)
    except PermissionError:
        copy(path, second)


def former(state: Path, path: str) -> tuple[Path, Path]:
    """Where what stood at a path is kept, and the mark that nothing stood there."""
    return state / FORMER / "files" / path.lstrip("/"), state / FORMER / "none" / path.lstrip("/")


def keep(state: Path, recorded: list[list[Any]]) -> None:
    """Of several changes since a unit was told, the first one counts: before it stood what the unit runs with."""
    (state / FORMER).mkdir(mode=0o700, exist_ok=True)
    for path, existed in recorded:
        file, none = former(state, path)
        if os.path.lexists(file) or none.exists():
            continue
        target = file if existed else none
        target.parent.mkdir(parents=True, exist_ok=True)
        if existed:
            whole = target.parent / f".{target.name}.new"
            copy(beside(path, "old"), whole)
            whole.replace(target)
        else:
            target.touch()
        sync_folder(target.parent)


def kept_files(state: Path, paths: list[str]) -> list[dict[str, Any]]:
    """The request that brings back what is kept of these paths."""
    files = []
    for path in paths:
        file, none = former(state, path)
        if os.path.lexists(file):
            files.append({"path": path, "content": None, "copy_of": str(file)})
        elif none.exists():
            files.append({"path": path, "content": None})
    return files


def note(state: Path, phase: str, files: list[list[Any]], paths: list[str]) -> None:
    journal = json.dumps({"phase": phase, "files": files, "paths": paths}).encode()
    write_new(state / "journal.new", journal, 0o644, os.getuid(), os.getgid())
    (state / "journal.new").replace(state / "journal")
    sync_folder(state)


def forget_applied(state: Path, paths: set[str]) -> None:
    """A unit that runs with one of these files has to be told again, whatever its stamp says. A set is told as a
    whole: also if all that changed is that a file that never was ours is gone."""
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
        forget_applied(state, {path for path, _ in journal["files"]}.union(journal.get("paths", ())))
    (state / "journal").unlink()


def owner_ids(file: dict[str, Any]) -> tuple[int, int]:
    try:
        return pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"]).gr_gid
    except KeyError as error:
        raise RefusedError(f"{file['path']} cannot be placed: {error.args[0]}") from error


def complaint(check: str, paths: list[str], seconds: float) -> str | None:
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
            output, _ = checker.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(checker.pid, signal.SIGKILL)
            checker.communicate()
            return f"no verdict within {seconds} s"
    return (output.strip() or f"exit status {checker.returncode}") if checker.returncode else None


def stage(file: dict[str, Any], uid: int, gid: int) -> None:
    """Lay what is to come to a path beside it."""
    new = beside(file["path"], "new")
    new.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if "copy_of" in file:
        copy(Path(file["copy_of"]), new)
    else:
        write_new(new, base64.b64decode(file["content"]), int(file["mode"], 8), uid, gid)


def swap(request: dict[str, Any], state: Path) -> None:
    files, paths = request["files"], request["paths"]
    for file in files:
        if Path(file["path"]).is_dir() and not Path(file["path"]).is_symlink():
            raise RefusedError(f"{file['path']} is a directory; a file of ours belongs there")
    ids = [(0, 0) if file["content"] is None else owner_ids(file) for file in files]
    gone = {file["path"] for file in files if file["content"] is None and "copy_of" not in file}
    recorded = [[file["path"], os.path.lexists(file["path"])] for file in files]
    note(state, "staging", recorded, paths)
    try:
        for file, (uid, gid) in zip(files, ids, strict=True):
            if file["path"] not in gone:
                stage(file, uid, gid)
        for path, existed in recorded:
            if existed:
                beside(path, "old").unlink(missing_ok=True)
                double(Path(path), beside(path, "old"))
        folders = {Path(path).parent for path, _ in recorded if Path(path).parent.is_dir()}
        for folder in folders:
            sync_folder(folder)
        note(state, "swapping", recorded, paths)
        for path, _ in recorded:
            if path in gone:
                Path(path).unlink(missing_ok=True)
            else:
                beside(path, "new").replace(path)
        for folder in folders:
            sync_folder(folder)
        if request["check"]:
            words = complaint(request["check"], paths, request["check_seconds"])
            if words is not None:
                raise RefusedError(f"the new files do not pass their check:\n{words}")
        if request["keep"]:
            keep(state, recorded)
        note(state, "done", recorded, paths)
    finally:
        recover(state)


def restore(request: dict[str, Any], state: Path) -> None:
    """Bring back what is kept of the request's paths, and say which. It ran before, so nothing checks it."""
    files = kept_files(state, request["paths"])
    if files:
        swap({"files": files, "paths": request["paths"], "check": None, "keep": False}, state)
    for file in files:
        for kept in former(state, file["path"]):
            kept.unlink(missing_ok=True)
        print(file["path"])


def lock(state: Path, seconds: float) -> int:
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        if time.monotonic() > deadline:
            raise RefusedError(f"another deploy has been changing files here for {seconds} s")
        time.sleep(0.2)


def main(text: str) -> int:
    """Run one request: {"files": [{path, owner, group, mode, content}], "paths", "check", "check_seconds", "keep"}.

    `content` is base64, or null for a file to be removed; `paths` are all paths of the set, which the shell
    command `check` gets as its arguments. Without `files` it is a restore of `paths`. Returns the exit status; the
    reason of a refusal goes to stderr.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a lost connection must not stop us in the middle
    request = json.loads(text)
    state = Path(STATE)
    os.umask(0o022)
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        lock(state, request["check_seconds"] + LOCK_MARGIN)
        recover(state)
        if "files" not in request:
            restore(request, state)
        elif request["files"]:
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
