"""The end of a node that something stands in the way of."""

from types import SimpleNamespace
from typing import Any

import pytest
from gevent import GreenletExit

from facts.memory import MemoryTotal
from facts.several import Question
from operations.primitives import preflight


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the operator reads of a node whose state forgets nothing."""
    lines: list[str] = []
    node: Any = SimpleNamespace(name="x", print_prefix="[x] ", state=SimpleNamespace(failed=set()))
    node.get_fact = lambda *_, **__: []
    node.state.fail_hosts = lambda hosts: lines.append(f"{len(hosts)} failed")
    monkeypatch.setattr(preflight, "host", node)
    monkeypatch.setattr(preflight, "ctx_host", SimpleNamespace(get=lambda: node.name))
    monkeypatch.setattr(preflight, "logger", SimpleNamespace(error=lines.append))
    return lines


def test_a_node_with_findings_is_through_and_no_other(said: list[str]) -> None:
    with pytest.raises(GreenletExit):
        preflight.refuse(["the port is taken: free it", "it is full."])
    assert said == [
        "[x] nothing was changed on this node:",
        "[x] - the port is taken: free it.",
        "[x] - it is full.",
        "1 failed",
    ]


def test_a_node_that_does_not_answer_is_through(said: list[str]) -> None:
    """pyinfra gives a fact's default for a node whose command failed, when there are others."""
    with pytest.raises(GreenletExit):
        preflight.look([preflight.Look((Question(MemoryTotal),))])
    assert "[x] - it did not answer what was asked of it." in said


def test_without_findings_nothing_is_said(said: list[str]) -> None:
    preflight.refuse([])
    assert said == []
