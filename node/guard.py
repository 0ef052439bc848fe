#!/usr/bin/env python3
"""Changes files of this node with an undo; runs here as root, Debian's Python alone.

    guard.py NAME arm < request    remember the old files, arm the undo, apply detached from this session
    guard.py NAME applied SHA256   whether the new files have taken effect; what connects after that is new
    guard.py NAME confirm SHA256   keep the new files; from the control machine, over a new connection
    guard.py NAME abandon          run the undo now, detached from this session
    guard.py NAME revert [--boot]  the undo itself: what its timer and its boot unit call

For what can cut the operator off. NAME says what is changed, so that each has one change at a time: its state
is /var/lib/okome/NAME, its units are okome-NAME-undo and okome-NAME-switch. Each file is put in place by one
rename. Until the change is confirmed, its mark `pending` is there, and two things lead back: a timer and, after
a power loss, a unit that puts the old files back before anything reads them.

A request is JSON: sha256 (which change this is), seconds (until the undo), files (of each its path, mode,
content in base64, and `was`, the SHA-256 of the file as the request's author saw it, null if absent), apply
and undo (lists of commands: what makes the files take effect once they are in place, and once the old ones are
back). A kind of change that is more than files and commands is a program of its own around a subclass of Guard.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/okome")
# Whoever was refused just now may not be in a moment.
RETRY = ("--property=Restart=on-failure", "--property=RestartSec=5")
NOT_YET = 75  # sysexits: EX_TEMPFAIL


class GuardError(Exception):
    """What went wrong, in one sentence for the operator."""


# --- files that survive a power cut ------------------------------------------------------------------------


def write(path: Path, content: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """Replace the file in one step; it is on the disk when this returns."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".okome-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove the file, if it is there; it is off the disk when this returns."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put the directory's entries on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str | None:
    """SHA-256 of the file, None if it is absent."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


# --- programs of this node ---------------------------------------------------------------------------------


def run(*command: str, seconds: float = 40) -> str:
    """Run a program of this node; a failure is a GuardError with what it said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise GuardError(f"`{' '.join(command)}` failed: {said or f'exit {done.returncode}'}.")
    return done.stdout


def attempt(*command: str) -> bool:
    """Run a program whose failure is an answer; say on stderr (the journal) what it was."""
    try:
        run(*command)
    except (GuardError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return False
    return True


# --- the change --------------------------------------------------------------------------------------------


class Guard:
    """One kind of change: by its name, files and commands. What is more than that overrides the first half."""

    def __init__(self, name: str, *program: str, state: Path = STATE) -> None:
        """`program` is the command that leads back here, for the node's units."""
        self.name = name
        self.program = program
        self.state = state / name
        # `failed`: why it could not be applied. `known`: what the node knew when nobody had confirmed it.
        self.mark, self.confirmed, self.failed, self.known, self.locked = (
            self.state / part for part in ("pending", "confirmed", "failed", "known", "lock")
        )
        self.undo_unit, self.switch_unit = f"okome-{name}-undo", f"okome-{name}-switch"

    def look(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer that refuses, or a GuardError, before anything is touched."""

    def secure(self, request: dict[str, Any]) -> None:
        """Another way back besides the timer; `note` what it needs."""

    def apply(self, request: dict[str, Any]) -> None:
        """Make the new files, which are in place, take effect."""
        for command in request["apply"]:
            run(*command)

    def prove(self, request: dict[str, Any]) -> None:
        """A GuardError, if what was asked for is not in effect."""

    def testimony(self, request: dict[str, Any]) -> str:
        """What this node can say about a change that nobody has confirmed."""
        return "" if request["applied"] else "the change was not applied yet"

    def keep(self, request: dict[str, Any]) -> None:
        """Give up the other way back."""

    def undo(self, request: dict[str, Any], *, boot: bool) -> None:
        """Put the old files back and make them take effect; at boot the files are all there is to undo."""
        self.put_back(request)
        for command in () if boot else request["undo"]:
            run(*command)

    # What is the same for all.

    def pending(self) -> dict[str, Any] | None:
        """The change that waits for its confirmation."""
        return dict(json.loads(self.mark.read_text())) if self.mark.exists() else None

    def note(self, request: dict[str, Any]) -> None:
        """The mark that this change is not confirmed."""
        write(self.mark, json.dumps(request).encode(), 0o600)

    @contextlib.contextmanager
    def lock(self, seconds: float = 45) -> Iterator[None]:
        """One of us at a time."""
        until = time.monotonic() + seconds
        with self.locked.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise GuardError(f"another change of the {self.name} is under way.") from None
                    time.sleep(0.1)
            yield

    def arm(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remember, arm, and apply in a moment. Nothing has been touched if this raises or refuses."""
        contents = [base64.b64decode(file.pop("content")) for file in request["files"]]
        with self.lock():
            if self.pending():
                raise GuardError(f"a change of the {self.name} already waits for its confirmation.")
            for file in request["files"]:
                if digest(Path(file["path"])) != file["was"]:
                    raise GuardError(
                        f"{file['path']} changed while it was being looked at; run the deploy again."
                    )
            if refusal := self.look(request):
                return refusal
            request["applied"] = False
            for number, (file, content) in enumerate(zip(request["files"], contents, strict=True)):
                file["old"], path = None, Path(file["path"])
                if path.exists():
                    status = path.stat()
                    file["old"] = [status.st_mode & 0o7777, status.st_uid, status.st_gid]
                    write(self.state / f"old.{number}", path.read_bytes(), 0o600)
                write(self.state / f"new.{number}", content, 0o600)
            remove(self.confirmed)
            remove(self.failed)
            remove(self.known)
            self.note(request)
            try:
                self.secure(request)
                # OnActiveSec= is monotonic, as every deadline here: a clock that jumps moves none of them.
                run(
                    "systemd-run", "--quiet", "--collect", f"--unit={self.undo_unit}",
                    f"--on-active={int(request['seconds'])}", "--timer-property=AccuracySec=1s",
                    *RETRY, *self.program, "revert",
                )  # fmt: skip
                self.start(self.switch_unit, *self.program, "switch")
            except BaseException:
                self.disarm()
                raise
        return {"result": "armed"}

    def start(self, unit: str, *command: str) -> None:
        """Run ourselves detached: what follows may cut the session that asked for it."""
        run("systemd-run", "--quiet", "--collect", "--no-block", f"--unit={unit}", *command)

    def switch(self) -> None:
        """Put the new files in place and make them take effect."""
        time.sleep(0.5)  # the session that armed us reads its answer first
        with self.lock():
            if not (request := self.pending()):
                return
            try:
                for number, file in enumerate(request["files"]):
                    write(Path(file["path"]), (self.state / f"new.{number}").read_bytes(), file["mode"])
                self.apply(request)
                self.note(request | {"applied": True})
            except (GuardError, OSError, subprocess.TimeoutExpired) as error:
                write(self.failed, str(error).encode(), 0o600)
                self.undo(request, boot=False)
                self.disarm()
                raise

    def applied(self, sha256: str) -> int:
        """Too early, or not any more. Whether there is anything to confirm is said by `confirm`."""
        request = self.pending()
        return NOT_YET if request and request["sha256"] == sha256 and not request["applied"] else 0

    def confirm(self, sha256: str) -> int:
        """Keep the change, if it is the one that is meant, has been applied, and works."""
        with self.lock():
            request = self.pending()
            if not request and self.confirmed.exists() and self.confirmed.read_text() == sha256:
                return 0  # we did, and our answer was lost
            if not request or request["sha256"] != sha256:
                raise GuardError(f"this change of the {self.name} does not wait for a confirmation any more.")
            if not request["applied"]:
                return NOT_YET
            self.prove(request)
            self.keep(request)
            write(self.confirmed, sha256.encode(), 0o600)
            self.disarm()
        return 0

    def abandon(self) -> None:
        """Run the undo now."""
        self.start(f"{self.undo_unit}-now", *RETRY, *self.program, "revert")

    def revert(self, *, boot: bool = False) -> None:
        """Undo a change that was not confirmed, if there is one."""
        if not boot:
            # What hangs while the new files are applied must not keep the undo waiting.
            stop = ["systemctl", "stop", f"{self.switch_unit}.service"]
            subprocess.run(stop, capture_output=True, timeout=30, check=False)
        with self.lock():
            if request := self.pending():
                if not boot:
                    with contextlib.suppress(GuardError, OSError, subprocess.TimeoutExpired, ValueError):
                        write(self.known, self.testimony(request).encode(), 0o600)
                self.undo(request, boot=boot)
                self.disarm()

    def put_back(self, request: dict[str, Any]) -> None:
        """The files as they were."""
        for number, file in enumerate(request["files"]):
            path = Path(file["path"])
            if file["old"]:
                mode, user, group = file["old"]
                write(path, (self.state / f"old.{number}").read_bytes(), mode, (user, group))
            else:
                remove(path)

    def disarm(self) -> None:
        """Remove the mark, which decides, then what hangs on it."""
        remove(self.mark)
        # Not there when the timer itself has called us, nor at boot; without the mark it would do nothing.
        stop = ["systemctl", "stop", f"{self.undo_unit}.timer"]
        subprocess.run(stop, capture_output=True, timeout=20, check=False)
        for copy in [*self.state.glob("old.*"), *self.state.glob("new.*")]:
            remove(copy)


def main(guard: Guard, arguments: list[str]) -> int:
    """Run one command; 1 and one sentence on stderr if it failed, 75 if it is too early for it."""
    try:
        guard.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        match arguments:
            case ["arm"]:
                print(json.dumps(guard.arm(json.load(sys.stdin))))
            case ["applied", sha256]:
                return guard.applied(sha256)
            case ["confirm", sha256]:
                return guard.confirm(sha256)
            case ["abandon"]:
                guard.abandon()
            case ["switch"]:
                guard.switch()
            case ["revert"]:
                guard.revert()
            case ["revert", "--boot"]:
                guard.revert(boot=True)
            case _:
                print(__doc__, file=sys.stderr)
                return 64
    except (GuardError, OSError, subprocess.TimeoutExpired) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if not name.isalpha():
        sys.exit(__doc__)
    sys.exit(main(Guard(name, __file__, name), sys.argv[2:]))
