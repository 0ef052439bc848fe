"""When the address operation has something to do, and in which order; no node."""

import hashlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.api import Host

from operations.primitives import address
from operations.primitives.address import ADDRESS, carry_out, guarded
from tests.unit.operations.primitives.test_address_file import TARGET, WANT, interface, moved


def test_guarded_when_the_undo_would_be_there_after_a_power_loss() -> None:
    files: dict[str, Any] = {
        file.path: {
            "mode": file.mode,
            "owner": "root",
            "sha256": hashlib.sha256(ADDRESS.contents[file.path]).hexdigest(),
        }
        for file in ADDRESS.files.files
    }
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
