"""A unit that is on its way, as all are while a node boots, is waited for: the shell of that, run for real."""

import os
import subprocess
from pathlib import Path

import pytest

from facts.units import SHOW

# Answers one file after the other, the last one for ever.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>asked
for file in 1 2 3; do if test -e $file; then cat $file; test $file = 3 || rm $file; exit; fi; done
"""
UP = "Id=a.service\nActiveState=active\nJob=\nNRestarts=0\n"
DOWN = "Id=b.timer\nActiveState=inactive\nJob=\n"


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        (UP, 1),
        (f"{UP}\n{DOWN}", 1),
        (UP.replace("active\n", "failed\n"), 1),
        (f"{UP}\n{DOWN.replace('Job=', 'Job=12')}", 3),
        (f"{DOWN.replace('inactive', 'activating')}\n{UP}", 3),
        (f"ActiveState=reloading\n{UP}", 3),
        (f"{UP}\n{DOWN.replace('inactive', 'deactivating')}", 3),
        (UP.replace("active", "activating").replace("NRestarts=0", "NRestarts=9"), 3),
        (UP.replace("active", "activating").replace("NRestarts=0", "NRestarts=10"), 1),
        (UP.replace("Job=", "Job=9").replace("NRestarts=0", "NRestarts=123"), 1),
    ],
)
def test_what_is_on_its_way_is_waited_for(tmp_path: Path, shown: str, asked: int) -> None:
    done = show(tmp_path, {1: shown, 2: shown, 3: UP}, seconds=1000)
    assert done == (shown if asked == 1 else UP)
    asked_for = (tmp_path / "asked").read_text().splitlines()
    assert len(asked_for) == asked
    assert asked_for[0].endswith(" -- a.service b.timer")


def test_but_not_for_ever(tmp_path: Path) -> None:
    starting = UP.replace("active", "activating")
    assert show(tmp_path, {3: starting}, seconds=0) == starting


def show(folder: Path, answers: dict[int, str], seconds: int) -> str:
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    for name, text in answers.items():
        (folder / str(name)).write_text(text)
    # There is no date(1) here, which would answer by a clock that may jump.
    script = f"sleep() {{ :; }}; date() {{ exit 99; }}\nset -- {seconds} a.service b.timer\n{SHOW}"
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
