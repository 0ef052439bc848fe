"""What a unit has to be told, from what systemd and the stamps say."""

from dataclasses import replace

import pytest

from facts.units import UnitState
from operations.unit import boot_command, canonical, due

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
