"""What the guard does with files and marks; no node, no root."""

import ast
import base64
import hashlib
import os
import re
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from node import address_guard, guard
from operations.primitives import confirmed

ME = (os.getuid(), os.getgid())


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "okome-lan.nmconnection"
    path.write_text("before")
    for mode in (0o600, 0o644):
        guard.write(path, b"after", mode, ME)
        assert path.read_bytes() == b"after"
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "90-okome.yaml"
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            guard.write(path, b"after", 0o600, ME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_confirmation_whose_answer_was_lost_can_be_repeated(
    tmp_path: Path,
) -> None:
    kept = guard.Guard("address", state=tmp_path)
    kept.state.mkdir()
    kept.confirmed.write_text("6cf7")
    assert kept.confirm("6cf7") == 0
    with pytest.raises(guard.GuardError, match="does not wait for a confirmation any more"):
        kept.confirm("5c0e")
    # A later change that waits is not confirmed by the word on an earlier one.
    kept.mark.write_text('{"sha256": "5c0e", "applied": false}')
    assert kept.confirm("5c0e") == guard.NOT_YET
    with pytest.raises(guard.GuardError, match="does not wait for a confirmation any more"):
        kept.confirm("6cf7")


def test_a_program_that_fails_says_so_in_one_sentence() -> None:
    with pytest.raises(guard.GuardError, match=r"`sh -c .*` failed: out of order\.$"):
        guard.run("sh", "-c", "echo out of order >&2; exit 3")


class Plain(guard.Guard):
    """A change of one file whose effect is noted; nothing of the machine's is touched."""

    def __init__(self, state: Path) -> None:
        super().__init__("plain", "guard.py", "plain", state=state)
        self.state.mkdir()
        self.did: list[str] = []
        self.started: list[list[str]] = []
        self.refuses = False

    def run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        """In the place of subprocess.run."""
        self.started.append(list(command))
        refuses = self.refuses and "systemctl" not in command
        return subprocess.CompletedProcess(command, int(refuses), "", "out of order")

    def apply(self, request: dict[str, Any]) -> None:
        self.did.append("apply")
        if self.refuses:
            super().apply({"apply": [["nft", "-f", "/etc/x"]]})

    def undo(self, request: dict[str, Any], *, boot: bool) -> None:
        self.put_back(request)
        self.did.append("undo at boot" if boot else "undo")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plain:
    """Units are not started, and files are ours instead of root's."""
    as_root = guard.write
    monkeypatch.setattr(
        guard, "write", lambda path, content, mode, owner=ME: as_root(path, content, mode, ME)
    )
    made = Plain(tmp_path)
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return made


def request(*files: tuple[Path, bytes, bytes | None]) -> dict[str, Any]:
    """For each file its path, what it shall be, and what it was."""
    return {
        "sha256": "6cf7",
        "seconds": 60,
        "files": [
            {
                "path": str(path),
                "mode": 0o640,
                "content": base64.b64encode(new).decode(),
                "was": None if was is None else hashlib.sha256(was).hexdigest(),
            }
            for path, new, was in files
        ],
    }


def test_a_change_of_several_files_is_applied_and_kept(plain: Plain, tmp_path: Path) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_bytes(b"before")
    assert plain.arm(request((there, b"after", b"before"), (new, b"made", None))) == {"result": "armed"}
    # The undo hangs on the monotonic clock, and what makes the change on no session.
    timer, switch = plain.started[-2:]
    assert "--on-active=60" in timer
    assert not any(word.startswith("--on-calendar") for word in timer)
    assert switch[-2:] == ["plain", "switch"]
    assert there.read_bytes() == b"before"
    assert (plain.applied("6cf7"), plain.confirm("6cf7")) == (guard.NOT_YET, guard.NOT_YET)
    plain.switch()
    assert plain.applied("6cf7") == 0
    assert (there.read_bytes(), new.read_bytes(), plain.did) == (b"after", b"made", ["apply"])
    assert stat.S_IMODE(there.stat().st_mode) == 0o640
    assert plain.confirm("6cf7") == 0
    assert plain.pending() is None
    plain.revert()
    assert (there.read_bytes(), plain.did) == (b"after", ["apply"])
    assert {path.name for path in plain.state.iterdir()} == {"confirmed", "lock"}


@pytest.mark.parametrize("boot", [False, True])
def test_a_change_that_nobody_confirmed_is_undone(plain: Plain, tmp_path: Path, boot: bool) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_bytes(b"before")
    there.chmod(0o600)
    plain.arm(request((there, b"after", b"before"), (new, b"made", None)))
    plain.switch()
    plain.revert(boot=boot)
    assert there.read_bytes() == b"before"
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    assert not new.exists()
    assert plain.did == ["apply", "undo at boot" if boot else "undo"]
    # What it knew then is for the operator who waits; at boot nobody does.
    assert plain.known.exists() is not boot
    plain.switch()  # too late
    assert there.read_bytes() == b"before"


def test_a_change_that_fails_is_undone_at_once_and_says_why(plain: Plain, tmp_path: Path) -> None:
    path = tmp_path / "new"
    plain.arm(request((path, b"made", None)))
    plain.refuses = True
    with pytest.raises(guard.GuardError, match="`nft -f /etc/x` failed: out of order"):
        plain.switch()
    assert "out of order" in plain.failed.read_text()
    assert not path.exists()
    assert plain.pending() is None


def test_nothing_is_armed_over_a_file_that_changed_meanwhile(plain: Plain, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_bytes(b"other")
    with pytest.raises(guard.GuardError, match="changed while it was being looked at"):
        plain.arm(request((path, b"after", b"before")))
    assert plain.pending() is None
    plain.arm(request((path, b"after", b"other")))
    with pytest.raises(guard.GuardError, match="already waits for its confirmation"):
        plain.arm(request((path, b"after", b"other")))


def test_no_deadline_hangs_on_a_clock_that_can_jump() -> None:
    for program in (guard, address_guard, confirmed):
        text = Path(str(program.__file__)).read_text()
        assert "time.monotonic()" in text
        assert not re.search(r"time\.time\(|datetime|--on-calendar|--since", text)


def test_they_need_nothing_but_debians_python() -> None:
    for program in (guard, address_guard):
        tree = ast.parse(Path(str(program.__file__)).read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        imported = {alias.name for node in found for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {"node", "guard"} if program is address_guard else set()
        assert {name.partition(".")[0] for name in imported} - ours <= sys.stdlib_module_names
