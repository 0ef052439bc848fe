"""What is done to packages, what apt says of repositories, and who is waited for."""

import fcntl
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import FunctionCommand, StringCommand

import operations.primitives.packages as module
from facts.packages import FRONTEND, WAIT, Packages, PackageState, UpgradeState
from facts.several import Question
from operations.primitives.packages import (
    AptGet,
    Configure,
    Fetch,
    Step,
    command,
    complaints,
    installation,
    reached,
    upgrading,
)

REPAIR = (Configure(), AptGet(("--fix-broken", "install")))
UPGRADE = (Fetch(), AptGet(("--with-new-pkgs", "upgrade")))


def install(*names: str) -> tuple[Step, ...]:
    return Fetch(), AptGet(("--no-install-recommends", "install", *names))


@pytest.mark.parametrize(
    ("installed", "broken", "expected"),
    [
        ("a b", False, ()),
        ("a b", True, REPAIR),
        ("a", False, install("b")),
        ("b other", False, install("a")),
        ("", False, install("a", "b")),
        ("", True, (*REPAIR, *install("a", "b"))),  # apt-get installs nothing beside what is half done
    ],
)
def test_what_is_done_so_that_packages_are_there(
    installed: str, broken: bool, expected: tuple[Step, ...]
) -> None:
    assert installation(["a", "b"], PackageState(frozenset(installed.split()), broken)) == expected


@pytest.mark.parametrize(
    ("age", "upgradable", "broken", "expected"),
    [
        (0, (), False, ()),
        (3600, (), False, ()),
        (3601, (), False, UPGRADE),
        (-1, (), False, UPGRADE),  # fetched tomorrow
        (None, (), False, UPGRADE),  # never
        (60, ("libc6",), False, UPGRADE),
        (60, (), True, (*REPAIR, *UPGRADE)),
        (None, ("libc6",), True, (*REPAIR, *UPGRADE)),
    ],
)
def test_what_is_done_so_that_nothing_can_be_upgraded(
    age: int | None, upgradable: tuple[str, ...], broken: bool, expected: tuple[Step, ...]
) -> None:
    assert upgrading(broken, UpgradeState(upgradable, age, "the kernel is newer")) == expected


def said(step: Step) -> str:
    rendered = command(step, 7)
    assert isinstance(rendered, StringCommand)
    return rendered.get_raw_value()


def test_each_step_is_one_command_that_waits_first() -> None:
    wait = f"python3 -c {shlex.quote(WAIT)} 7"
    assert said(Configure()) == (
        f"{wait} /var/lib/dpkg/lock-frontend && DEBIAN_FRONTEND=noninteractive"
        " dpkg --force-confdef --force-confold --configure -a"
    )
    assert said(AptGet(("--fix-broken", "install"))) == (
        f"{wait} /var/lib/apt/lists/lock /var/cache/apt/archives/lock && DEBIAN_FRONTEND=noninteractive"
        " apt-get -q -y --fix-broken install"
    )
    fetch = command(Fetch(), 7)
    assert isinstance(fetch, FunctionCommand)
    assert (fetch.function, fetch.args, fetch.kwargs) == (module._fetch, (), {})


@pytest.mark.parametrize("whole", [True, False])
def test_the_operations_do_what_was_decided(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """`whole`: there is nothing to do."""
    noops, waits = list[str](), SimpleNamespace(apt_lock_timeout=7)
    found = PackageState(frozenset("a"), broken=not whole)
    upgrade = UpgradeState((), 60, None)
    node: Any = SimpleNamespace(data=waits, noop=noops.append)
    node.get_fact = lambda fact, **_: found if fact is Packages else upgrade
    monkeypatch.setattr(module, "host", node)
    asked = list[Question]()

    def present(question: Question) -> PackageState:
        asked.append(question)
        return found

    monkeypatch.setattr(module, "present", present)
    installed = [command(step, 7) for step in installation(["a"], found)]
    assert list(module.packages._inner(["a"])) == installed
    assert asked == [Question(Packages, {"names": ("a",), "seconds": 7})]
    upgraded = [command(step, 7) for step in upgrading(not whole, upgrade)]
    assert list(module.upgrade._inner()) == upgraded
    assert noops == (["a installed", "no package is to be upgraded"] if whole else [])


# Recorded on a node of the lab.
UNSIGNED = """Get:1 file:/srv/third ./ InRelease
Ign:1 file:/srv/third ./ InRelease
Get:2 file:/srv/third ./ Release [1200 B]
Get:2 file:/srv/third ./ Release [1200 B]
Hit:4 http://deb.debian.org/debian bookworm InRelease
Err:3 file:/srv/third ./ Release.gpg
E: The repository 'file:/srv/third ./ Release' is not signed.
""".splitlines()
AWAY = """Err:1 http://deb.debian.org/debian bookworm InRelease
  Could not connect to deb.debian.org:80
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect
""".splitlines()


def test_a_repository_that_is_not_signed() -> None:
    assert complaints(UNSIGNED) == ["The repository 'file:/srv/third ./ Release' is not signed"]
    assert complaints(["W: GPG error: http://x stable: NO_PUBKEY 1"]) == [
        "GPG error: http://x stable: NO_PUBKEY 1"
    ]
    assert complaints(["E: http://x is not for mipsX."]) == ["http://x is not for mipsX"]
    assert reached(UNSIGNED)
    assert not reached(UNSIGNED[:4])


def test_all_repositories_away() -> None:
    assert complaints(AWAY) == [
        "Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect"
    ]
    assert not reached(AWAY)


def test_one_that_is_away_beside_a_worse_one_of_which_alone_apt_speaks_at_the_end() -> None:
    away = ["Err:1 http://127.0.0.1:9 ./ InRelease", "  Could not connect", "Hit:2 http://x stable InRelease"]
    assert complaints([*away, *UNSIGNED]) == [
        "The repository 'file:/srv/third ./ Release' is not signed",
        "http://127.0.0.1:9 ./ InRelease: Could not connect",
    ]


def test_a_lock_that_is_held_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    wait = [sys.executable, "-c", WAIT, "30", str(tmp_path / "free"), str(lock)]
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        with subprocess.Popen(wait) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.7)
            fcntl.lockf(held, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0
        fcntl.lockf(held, fcntl.LOCK_EX)
        late = subprocess.run(
            [*wait[:3], "0", *wait[4:]], capture_output=True, text=True, check=False, timeout=60
        )
    assert (late.returncode, late.stderr) == (1, f"another apt or dpkg has held {lock} for 0 s\n")


# dpkg as it is while another one configures logrotate: it says so until that one has ended.
DPKG = """#!/bin/sh
test -e BUSY && echo 'The following packages are only half configured'
rm -f BUSY
"""


@pytest.mark.parametrize("ends", [True, False])
def test_a_dpkg_at_work_is_no_broken_one(tmp_path: Path, ends: bool) -> None:
    (tmp_path / "updates").mkdir()
    busy = tmp_path / "busy"
    busy.touch()
    dpkg = tmp_path / "dpkg"
    program = DPKG.replace("BUSY", str(busy))
    dpkg.write_text(program if ends else program.replace("rm -f", "touch"))
    dpkg.chmod(0o755)
    command = Packages().command(names=("nonsuch",), seconds=0)
    command = command.replace("/var/lib/dpkg/updates", str(tmp_path / "updates"))
    command = command.replace(FRONTEND, str(tmp_path / "lock"))
    done = subprocess.run(
        ["sh", "-c", f"PATH={tmp_path}:$PATH; {command}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Packages().process(done.stdout.splitlines()) == PackageState(frozenset(), broken=not ends)
