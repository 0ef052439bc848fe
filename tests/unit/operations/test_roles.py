"""The phases of each role, in their order."""

from types import SimpleNamespace

import pytest
from pyinfra.api import OperationError

from operations import roles

PHASES = ("explain_lost_connections", "preflight", "foundation", "backend", "frontend", "failover")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for, in turn; of a node that is both."""
    asked = list[str]()

    def note(phase: str) -> None:
        monkeypatch.setattr(roles, phase, lambda *names: asked.append(" ".join((phase, *names))))

    for phase in PHASES:
        note(phase)
    monkeypatch.setattr(roles, "host", SimpleNamespace(name="both", groups=["frontends", "backends"]))
    return asked


@pytest.mark.parametrize(
    ("names", "phases"),
    [
        (["backends"], ["backend"]),
        (["frontends"], ["frontend", "failover"]),
        (["frontends", "backends"], ["backend", "frontend", "failover"]),
    ],
)
def test_what_stands_in_the_way_is_looked_at_before_anything_is_changed(
    done: list[str], names: list[str], phases: list[str]
) -> None:
    roles.role(*names)
    assert done == ["explain_lost_connections", f"preflight {' '.join(names)}", "foundation", *phases]


def test_a_deploy_of_another_role_is_refused_and_the_right_one_named(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "host", SimpleNamespace(name="edge", groups=["frontends"]))
    with pytest.raises(
        OperationError, match=r"^edge is not in backends of .* deploys/site\.py --limit edge\.$"
    ):
        roles.role("backends")
    assert done == []
