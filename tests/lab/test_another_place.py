"""The tier with other addresses, names and another user, by inventory.py and group_data alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.another_place import Copy
from tests.lab.conftest import NAME, Lab

EDITS = (
    ("inventory.py", '"cn00", "192.168.86.20"', '"edge", "10.77.0.4"'),
    ("inventory.py", '"cn01", "192.168.86.19"', '"store", "10.77.0.5"'),
    ("group_data/all.py", '"ncadmin"', '"okada"'),
    ("group_data/all.py", '"192.168.86.1"', '"10.77.0.254"'),
    ("group_data/frontends.py", "192.168.86.25:8000", "10.77.0.9:9000"),
)


class Elsewhere(Lab):
    """A lab of the copy's, beside the tests' own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = f"e{NAME}"

    def command(self, *words: str) -> list[str]:
        own = f"OKOME_LAB={NAME}"
        return [f"OKOME_LAB={self.name}" if word == own else word for word in super().command(*words)]


@pytest.fixture
def elsewhere(lab: Lab, tmp_path: Path) -> Iterator[Elsewhere]:
    lab("down")  # two nodes at once are enough
    copy = Copy(tmp_path)
    for edit in EDITS:
        copy.edit(*edit)
    there = Elsewhere(tmp_path)
    yield there
    there("down")


def test_the_tier_at_another_place(elsewhere: Elsewhere) -> None:
    elsewhere("up", timeout=1500)
    nodes: dict[str, Any] = json.loads(elsewhere("status", "--json"))["nodes"]
    assert {name: facts["address"] for name, facts in nodes.items()} == {
        "edge": "10.77.0.132",
        "store": "10.77.0.133",
    }
    for name, facts in nodes.items():
        run = elsewhere.deploy("--limit", name, deploy="deploys/site.py", address=facts["address"])
        assert (run.status, run.errors) == (0, 0), run.output
    again = elsewhere.deploy(deploy="deploys/site.py")
    assert (again.status, again.changed, again.errors) == (0, 0, 0), again.output
    verified = elsewhere(
        "run", "--", "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/verify", timeout=300
    )
    assert "upstream down" not in verified
    asked = json.loads(elsewhere("run", "--", "okome", "status", "--json"))["nodes"]
    assert {name: facts["healthy"] for name, facts in asked.items()} == {"edge": True, "store": True}
    # The deploys of the names that were are about nobody now.
    stranger = elsewhere.deploy(deploy="deploys/cn01.py")
    assert stranger.status != 0
    assert "edge is not in backends of inventory.py" in stranger.output
    assert "deploys/site.py --limit edge." in stranger.output
