"""The program that swaps files on a node, run for real on a temporary folder."""

import base64
import grp
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facts.files import JOURNAL
from facts.ours import STATE
from facts.units import APPLIED
from node import guard, transaction
from operations.primitives import confirmed
from operations.primitives.config_set import TEMPLATES, TRANSACTION

# Its children are forked beside pytest-xdist's threads, and touch nothing of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def program(state: Path) -> str:
    return TRANSACTION.read_text().replace('STATE = "/var/lib/okome"', f'STATE = "{state}"')


def request(
    files: dict[Path, tuple[str, str] | None], check: str | None = None, *, keep: bool = False
) -> dict[str, Any]:
    """path → (content, mode), or None for a file to be removed."""
    return {
        "files": [
            {
                "path": str(path),
                **ME,
                "mode": wanted[1] if wanted else "644",
                "content": base64.b64encode(wanted[0].encode()).decode() if wanted else None,
            }
            for path, wanted in files.items()
        ],
        "paths": [str(path) for path in files],
        "check": check,
        "check_seconds": 60,
        "keep": keep,
    }


def run(state: Path, ask: dict[str, Any], source: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-"],
        input=f"{source or program(state)}\nsys.exit(main({json.dumps(ask)!r}))\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """Everything below a folder: mode, owner, group, and content or link."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_uid,
            path.lstat().st_gid,
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """etc/ holds a file, a symlink and a leftover; fresh is not there yet."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "kept.conf").write_text("old\n")
    (etc / "kept.conf").chmod(0o640)
    (etc / "link.conf").symlink_to("kept.conf")
    (etc / "leftover.conf").write_text("of old\n")
    (etc / "leftover.conf").chmod(0o604)
    return tmp_path


def wanted(node: Path) -> dict[Path, tuple[str, str] | None]:
    etc = node / "etc"
    return {
        etc / "kept.conf": ("new\n", "600"),
        etc / "link.conf": ("a file now\n", "644"),
        etc / "leftover.conf": None,
        etc / "fresh.conf": ("fresh\n", "755"),
    }


def test_all_files_land_with_their_modes_and_nothing_is_left_beside_them(node: Path) -> None:
    answer = run(node / "state", request({**wanted(node), node / "etc/sub/deep.conf": ("deep\n", "644")}))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    files = {name: (oct(mode)[-3:], what) for name, (mode, _, _, what) in snapshot(node / "etc").items()}
    assert files == {
        "fresh.conf": ("755", b"fresh\n"),
        "kept.conf": ("600", b"new\n"),
        "link.conf": ("644", b"a file now\n"),
        "sub": ("755", ""),
        "sub/deep.conf": ("644", b"deep\n"),
    }
    assert {path.name for path in (node / "state").iterdir()} == {"lock"}


def test_the_checker_sees_the_new_files_in_place(node: Path) -> None:
    check = 'grep -q new "$1" && ! test -e "$3" && test "$#" = 4'
    assert run(node / "state", request(wanted(node), check)).returncode == 0


def test_a_refusal_puts_everything_back_and_says_why(node: Path) -> None:
    before = snapshot(node / "etc")
    stamp = node / "state/applied/x.service.reload"
    stamp.parent.mkdir(parents=True)
    stamp.write_text(f"digest\n{node}/etc/kept.conf\n")
    answer = run(node / "state", request(wanted(node), 'echo "$1:1: bad"; exit 3'))
    assert answer.returncode == 1
    assert answer.stderr == (
        f"nothing was changed: the new files do not pass their check:\n{node}/etc/kept.conf:1: bad\n"
    )
    assert snapshot(node / "etc") == before
    assert {path.name for path in (node / "state").iterdir()} == {"lock", "applied"}
    assert stamp.exists()


def test_a_checker_that_hangs_is_a_refusal(node: Path) -> None:
    before = snapshot(node / "etc")
    ask = request(wanted(node), "sleep 500 & sleep 500") | {"check_seconds": 1}
    answer = run(node / "state", ask)
    assert answer.returncode == 1
    assert "no verdict within 1 s" in answer.stderr
    assert snapshot(node / "etc") == before


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda ask, etc: ask["files"][3].update(owner="nobody-of-that-name"), "nobody-of-that-name"),
        (lambda ask, etc: (etc / "fresh.conf").mkdir(), "fresh.conf is a directory"),
        (lambda ask, etc: ask["files"][3].update(path=str(etc / "kept.conf/x")), "File exists"),
    ],
    ids=["unknown owner", "directory", "parent is a file"],
)
def test_what_can_not_land_changes_nothing(
    node: Path, break_it: Callable[[dict[str, Any], Path], object], sentence: str
) -> None:
    ask = request(wanted(node))
    break_it(ask, node / "etc")
    before = snapshot(node / "etc")
    answer = run(node / "state", ask)
    assert answer.returncode == 1
    assert answer.stderr.startswith("nothing was changed: ")
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr
    assert snapshot(node / "etc") == before


def test_a_request_that_was_cut_short_changes_nothing(node: Path) -> None:
    before = snapshot(node)
    text = f"{program(node / 'state')}\nsys.exit(main({json.dumps(request(wanted(node)))!r}))\n"
    for size in (len(text) // 2, len(text) - 20, len(text) - 3):
        cut = subprocess.run([sys.executable, "-I", "-"], input=text[:size].encode(), timeout=60, check=False)
        assert size == len(text) // 2 or cut.returncode != 0
        assert snapshot(node) == before


def test_killed_while_checking_is_undone_by_the_next_run_even_of_another_set(node: Path) -> None:
    before = snapshot(node / "etc")
    killed = run(node / "state", request(wanted(node), "kill -9 $PPID"))
    assert killed.returncode == -9
    assert (node / "etc/kept.conf").read_text() == "new\n"
    assert (node / "state/journal").exists()
    other = node / "etc/other.conf"
    assert run(node / "state", request({other: ("other\n", "644")})).returncode == 0
    other.unlink()
    assert snapshot(node / "etc") == before


CHANGES = frozenset(
    {"open", "os.rename", "os.link", "os.remove", "os.chmod", "os.chown", "os.mkdir", "subprocess.Popen"}
)

# Other tests' threads do not matter to a child that takes no lock of theirs and ends without cleaning up.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def die_at(step: int, state: Path, ask: dict[str, Any]) -> bool:
    """Run the program in a child that dies, as if the power went, at its step-th access to the disk.

    Returns whether it did; if not, the program came to its end before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _: object) -> None:
            nonlocal seen
            seen += event in CHANGES
            if seen == step:
                os._exit(99)

        transaction.STATE = str(state)
        text = json.dumps(ask)
        sys.addaudithook(hook)
        os._exit(transaction.main(text))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 99)
    return os.waitstatus_to_exitcode(status) == 99


@forks
def test_wherever_it_dies_the_next_run_finds_all_old_or_all_new(tmp_path: Path) -> None:
    outcomes = set()
    step, died = 0, True
    while died:
        step += 1
        node = tmp_path / str(step)
        (node / "etc").mkdir(parents=True)
        (node / "etc/kept.conf").write_text("old\n")
        (node / "etc/leftover.conf").write_text("of old\n")
        (node / "state/applied").mkdir(parents=True)
        (node / "state/applied/x.service.restart").write_text(f"digest\n{node}/etc/kept.conf\n")
        before = snapshot(node / "etc")
        ask = request(
            {
                node / "etc/kept.conf": ("new\n", "600"),
                node / "etc/leftover.conf": None,
                node / "etc/fresh.conf": ("fresh\n", "644"),
            },
            "true",
        )
        died = die_at(step, node / "state", ask)
        assert not die_at(10_000, node / "state", {**ask, "files": []})  # recovery alone
        after = snapshot(node / "etc")
        stamps = list((node / "state/applied").iterdir())
        if after == before:
            assert len(stamps) == 1
            outcomes.add("old")
        else:
            assert {name: what for name, (*_, what) in after.items()} == {
                "kept.conf": b"new\n",
                "fresh.conf": b"fresh\n",
            }
            assert not stamps
            outcomes.add("new")
        leftovers = {path.name for path in (node / "state").iterdir()} - {"lock", "applied", "journal.new"}
        assert leftovers == set()
    assert outcomes == {"old", "new"}
    assert step > 30


def test_a_unit_is_told_again_of_files_that_changed_and_of_no_others(node: Path) -> None:
    applied = node / "state/applied"
    applied.mkdir(parents=True)
    (applied / "a.service.reload").write_text(f"digest\n{node}/etc/kept.conf\n{node}/etc/untouched.conf\n")
    (applied / "b.service.restart").write_text(f"digest\n{node}/etc/untouched.conf\n")
    assert run(node / "state", request(wanted(node))).returncode == 0
    assert {path.name for path in applied.iterdir()} == {"b.service.restart"}


def test_whoever_runs_with_one_file_of_a_set_is_told_again_when_another_one_goes(node: Path) -> None:
    """What is removed may never have been ours, and is in no stamp then."""
    applied = node / "state/applied"
    applied.mkdir(parents=True)
    (applied / "a.service.reload").write_text(f"digest\n{node}/etc/kept.conf\n")
    ask = request({node / "etc/leftover.conf": None})
    ask["paths"].append(str(node / "etc/kept.conf"))
    assert run(node / "state", ask).returncode == 0
    assert not list(applied.iterdir())


def restoration(*paths: Path) -> dict[str, Any]:
    return {"paths": [str(path) for path in paths], "check_seconds": 60}


def test_what_a_unit_ran_with_comes_back_whole_and_a_later_change_does_not_count(node: Path) -> None:
    etc, state = node / "etc", node / "state"
    before = snapshot(etc)
    assert run(state, request(wanted(node), keep=True)).returncode == 0
    assert run(state, request({etc / "kept.conf": ("newer\n", "644")}, keep=True)).returncode == 0
    assert (state / "former").stat().st_mode & 0o777 == 0o700
    stamp = state / "applied/x.service.reload"
    stamp.parent.mkdir()
    stamp.write_text(f"digest\n{etc}/kept.conf\n")

    back = run(state, restoration(*wanted(node)))
    assert (back.returncode, back.stderr) == (0, "")
    assert back.stdout.splitlines() == [str(path) for path in wanted(node)]
    assert snapshot(etc) == before
    assert not stamp.exists()

    (etc / "kept.conf").write_text("by hand\n")
    again = run(state, restoration(*wanted(node)))
    assert (again.returncode, again.stdout) == (0, "")
    assert (etc / "kept.conf").read_text() == "by hand\n"


def test_who_ends_the_keeping_knows_where_it_is() -> None:
    kept, _ = transaction.former(Path(transaction.STATE), "/etc/a")
    assert str(kept) == f"{transaction.STATE}/{transaction.FORMER}/files/etc/a"


def test_what_is_kept_on_a_node_is_asked_for_where_it_is() -> None:
    assert transaction.STATE == str(guard.STATE) == STATE
    assert {APPLIED, JOURNAL} == {f"{transaction.STATE}/{name}" for name in ("applied", "journal")}
    unit = confirmed.plain("%i")
    text = (TEMPLATES / confirmed.REVERT.lstrip("/")).read_text()
    assert f"ConditionPathExists={unit.pending}\n" in text
    assert f"ExecStart={unit.program} revert --boot\n" in text


def test_only_what_is_asked_for_is_kept(node: Path) -> None:
    assert run(node / "state", request(wanted(node))).returncode == 0
    assert run(node / "state", restoration(*wanted(node))).stdout == ""
    refused = request({node / "etc/kept.conf": ("bad\n", "644")}, "false", keep=True)
    assert run(node / "state", refused).returncode == 1
    assert run(node / "state", restoration(node / "etc/kept.conf")).stdout == ""


@forks
def test_wherever_a_restoration_dies_the_next_one_ends_it(tmp_path: Path) -> None:
    step, died = 0, True
    while died:
        step += 1
        node = tmp_path / str(step)
        (node / "etc").mkdir(parents=True)
        (node / "etc/kept.conf").write_text("old\n")
        before = snapshot(node / "etc")
        paths: dict[Path, tuple[str, str] | None] = {
            node / "etc/kept.conf": ("new\n", "600"),
            node / "etc/fresh.conf": ("fresh\n", "644"),
        }
        assert not die_at(10_000, node / "state", request(paths, keep=True))
        died = die_at(step, node / "state", restoration(*paths))
        assert not die_at(10_000, node / "state", restoration(*paths))
        assert snapshot(node / "etc") == before
        assert not [path for path in (node / "state/former").rglob("*") if not path.is_dir()]
    assert step > 20


def test_where_a_file_can_have_one_name_only(node: Path) -> None:
    """As on FAT: what was there is copied, and comes back from the copy."""
    link = "os.link(path, second, follow_symlinks=False)"
    fat = program(node / "state").replace(link, "raise PermissionError(path)")
    assert fat != program(node / "state")
    before = snapshot(node / "etc")
    refused = run(node / "state", request(wanted(node), check="exit 1"), fat)
    assert refused.returncode == 1
    assert snapshot(node / "etc") == before
    done = run(node / "state", request(wanted(node)), fat)
    assert done.returncode == 0, done.stderr
