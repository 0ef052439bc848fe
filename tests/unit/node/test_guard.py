"""What the guard does with files and marks; no node, no root."""

import ast
import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from node import address_guard, guard

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


def test_they_need_nothing_but_debians_python() -> None:
    for program in (guard, address_guard):
        tree = ast.parse(Path(str(program.__file__)).read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        imported = {alias.name for node in found for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {"node", "guard"} if program is address_guard else set()
        assert {name.partition(".")[0] for name in imported} - ours <= sys.stdlib_module_names
