"""When the address operation has something to do, and in which order; no node."""

import hashlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.api import Host

from operations.primitives import address
from operations.primitives.address import ADDRESS, carry_out, guarded
from tests.unit.operations.primitives.test_address_file import TARGET, WANT, interface, moved


def guard() -> dict[str, Any]:
    """Its files, as they are on a node that has it."""
    return {
        file.path: {
            "mode": file.mode,
            "owner": "root",
            "sha256": hashlib.sha256(ADDRESS.contents[file.path]).hexdigest(),
        }
        for file in ADDRESS.files.files
    }


def test_guarded_when_the_undo_would_be_there_after_a_power_loss() -> None:
    files = guard()
    assert guarded(moved(TARGET, files=files, guard_enabled=True))
    assert not guarded(moved(TARGET, files=files, guard_enabled=False))
    for path in files:
        for wrong in ({}, {path: files[path] | {"sha256": "else"}}, {path: files[path] | {"mode": "600"}}):
            rest = {other: state for other, state in files.items() if other != path}
            assert not guarded(moved(TARGET, files=rest | wrong, guard_enabled=True))


class Recorded:
    """A Confirmation that only remembers what it was asked for."""

    before = "192.168.86.132"

    def __init__(self, finishes: bool) -> None:
        self.finishes = finishes
        self.asked: list[str] = []

    def resume(self, pending: dict[str, Any], sha256: str, at: str, back: list[str]) -> bool:
        self.asked.append(f"resume {at} or {back}")
        return self.finishes

    def arm(self, request: dict[str, Any]) -> dict[str, str]:
        self.asked.append("arm")
        return {"result": "armed"}

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.asked.append(name)


@pytest.mark.parametrize(
    ("finishes", "asked"),
    [
        (True, []),
        (False, ["learn_keys", "refuse_a_stranger", "install", "arm", "confirm"]),
    ],
)
def test_an_armed_undo_keeps_the_guard_it_was_armed_with(
    finishes: bool, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be an earlier one; nothing is installed before that change is kept or undone."""
    recorded = Recorded(finishes)
    monkeypatch.setattr(address, "Confirmation", lambda *_: recorded)
    pending = {"sha256": "5c0e", "previous_address": "192.168.86.132"}
    found = iter([moved(TARGET, pending=pending), interface()])
    carry_out(cast(Host, SimpleNamespace(get_fact=lambda *_, **__: next(found))), WANT, 60, "")
    assert recorded.asked == ["resume 192.168.86.19 or ['192.168.86.132']", *asked]


@pytest.mark.parametrize("executing", [True, False])
@pytest.mark.parametrize("settles", [True, False])
def test_what_an_old_answer_says_is_asked_once_more(
    executing: bool, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that does something counts as a change, whatever it finds then."""
    right = moved(TARGET, files=guard() | moved(TARGET)["files"], guard_enabled=True)
    asked = []

    def fresh(*_: object, **__: object) -> Any:
        asked.append("fresh")
        return right if settles else interface()

    node = SimpleNamespace(
        state=SimpleNamespace(is_executing=executing), get_fact=fresh, noop=lambda _: asked.append("noop")
    )
    monkeypatch.setattr(address, "host", node)
    monkeypatch.setattr(address, "present", lambda _: interface())
    given = str(WANT.address), str(WANT.gateway), list(map(str, WANT.dns))
    done = list(address.static_address._inner(*given))
    assert len(done) == (0 if executing and settles else 1)
    assert asked == (["fresh"] if executing else []) + ([] if done else ["noop"])
