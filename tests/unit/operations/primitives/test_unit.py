"""What a unit has to be told, from what systemd and the stamps say."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from facts.units import UnitState
from operations.primitives.unit import QUIET, boot_command, canonical, due

RUNNING = UnitState("x.service", "loaded", "active", "enabled", need_daemon_reload=False)


@pytest.mark.parametrize(
    ("name", "unit"),
    [("x", "x.service"), ("x.service", "x.service"), ("x.timer", "x.timer"), ("a.b", "a.b.service")],
)
def test_a_name_is_a_services_unless_it_says_otherwise(name: str, unit: str) -> None:
    assert canonical(name) == unit


@pytest.mark.parametrize(
    ("stamps", "wanted", "action"),
    [
        ({}, {}, None),
        ({"restart": "1", "reload": "2"}, {"restart": "1", "reload": "2"}, None),
        ({"restart": "1", "reload": "2"}, {"restart": "1", "reload": "3"}, "reload"),
        ({"restart": "0", "reload": "2"}, {"restart": "1", "reload": "2"}, "restart"),
        ({"restart": "0", "reload": "0"}, {"restart": "1", "reload": "2"}, "restart"),
        ({}, {"reload": "2"}, "reload"),
        ({"reload": "1"}, {"restart": "1"}, "restart"),
    ],
)
def test_a_restart_before_a_reload_and_neither_without_need(
    stamps: dict[str, str], wanted: dict[str, str], action: str | None
) -> None:
    assert due(replace(RUNNING, stamps=stamps), wanted) == action


@pytest.mark.parametrize(
    ("file", "on", "off"),
    [
        ("enabled", None, "disable"),
        ("disabled", "enable", None),
        ("enabled-runtime", "enable", "disable"),
        ("masked", "enable", "disable"),
        ("", "enable", None),
        ("static", None, None),
        ("generated", None, None),
        ("alias", None, None),
    ],
)
def test_what_makes_it_start_at_boot_or_not(file: str, on: str | None, off: str | None) -> None:
    state = replace(RUNNING, file=file)
    assert (boot_command(state, True), boot_command(state, False), boot_command(state, None)) == (
        on,
        off,
        None,
    )


@pytest.mark.parametrize(
    ("question", "said", "asked"),
    [
        ("", "", 1),
        ("echo busy; exit 1", "", 1),  # who can't answer is not known to be busy
        ('[ "$(wc -l <asked)" -gt 3 ] || echo busy', "", 4),
        ("echo open requests: 2", "open requests: 2\n", 10),
    ],
)
def test_a_quiet_moment_is_waited_for_and_not_for_long(
    tmp_path: Path, question: str, said: str, asked: int
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"sleep() {{ :; }}\n{QUIET}", "sh", f"echo >>asked; {question}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (said, "")
    assert (tmp_path / "asked").read_text() == "\n" * asked
