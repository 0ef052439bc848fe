"""When a node is rebooted, and when it is taken for back."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.command import FunctionCommand
from pyinfra.api.exceptions import ConnectError

from facts.units import FailedUnits
from operations.primitives import reboot


def test_no_reboot_without_a_reason() -> None:
    assert reboot.steps(None, 300) == ()


def test_a_reboot_is_marked_told_and_waited_for() -> None:
    tell, wait = reboot.steps("the kernel 7 is installed and not running", 300)
    assert isinstance(tell, StringCommand)
    # First the mark: it is what a node that has not gone down yet is known by.
    assert tell.get_raw_value() == (
        "touch /run/okome-before-reboot && systemd-run --quiet --on-active=1 systemctl reboot"
    )
    assert isinstance(wait, FunctionCommand)
    assert (wait.function, wait.args, wait.kwargs) == (reboot._wait, (300,), {})


class Node:
    """One that answers what it is told to, the last for ever; a second passes before each try."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: str) -> None:
        self.answers, self.seconds, self.said = answers.split(), 0.0, list[str]()
        self.sleep = gevent.sleep
        monkeypatch.setattr(reboot, "ask", self.ask)
        monkeypatch.setattr(reboot, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        monkeypatch.setattr("gevent.sleep", self.passes)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds
        if self.seconds > 1 and len(self.answers) > 1:
            self.answers.pop(0)

    def disconnect(self) -> None:
        """Whatever it was."""

    def connect(self, *, show_errors: bool = True, raise_exceptions: bool = False) -> None:
        """As pyinfra's: an error is printed and forgotten by default."""
        if self.answers[0] == "silent":
            self.sleep(60)
        if self.answers[0] == "away":
            self.said += ["no route to it"] * show_errors
            if raise_exceptions:
                raise ConnectError("no route to it")

    def ask(self, host: "Node", command: StringCommand) -> tuple[bool, None]:
        assert host is self
        assert command.get_raw_value() == "! test -e /run/okome-before-reboot"
        # Whoever failed to connect asks over the connection that is not there, which pyinfra takes for a mistake.
        assert self.answers[0] in ("still", "back")
        return self.answers[0] == "back", None

    def log_styled(self, text: str, *, fg: str, log_func: Callable[..., None]) -> None:
        assert (fg, log_func) == ("red", logger.error)
        self.said.append(text)


@pytest.mark.parametrize(
    ("answers", "patience", "takes", "back"),
    [
        ("still away silent back", 300, 4, True),
        ("back", 300, 1, True),
        ("still", 2, 2, False),
        ("away", 2, 2, False),
        ("silent", 2, 2, False),
    ],
)
def test_a_node_is_back_when_it_answers_without_the_mark(
    monkeypatch: pytest.MonkeyPatch, answers: str, patience: int, takes: int, back: bool
) -> None:
    node: Any = Node(monkeypatch, answers)
    state: Any = None
    monkeypatch.setattr(reboot, "ANSWER", 0.01)
    assert reboot._wait(state, node, patience) == back
    assert (node.answers[1:], node.seconds) == ([], takes)
    assert node.said == ([] if back else [f"it did not come back within {patience} s of its reboot"])


@pytest.mark.parametrize("failed", [[], ["a.service", "b.mount"]])
def test_units_that_have_failed_fail_the_node_by_name(
    monkeypatch: pytest.MonkeyPatch, failed: list[str]
) -> None:
    node: Any = Node(monkeypatch, "back")
    noops = list[str]()
    node.get_fact, node.noop = {FailedUnits: failed}.__getitem__, noops.append
    monkeypatch.setattr(reboot, "host", node)
    commands = list(reboot.no_failed_units._inner())
    state: Any = None
    assert [command.function(state, node, *command.args) for command in commands] == [False] * bool(failed)
    assert node.said == ["units have failed: a.service, b.mount"] * bool(failed)
    assert noops == ["no unit has failed"] * (not failed)


@pytest.mark.parametrize("reason", [None, "/run/reboot-required exists"])
def test_the_operation_does_what_was_decided(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    noops = list[str]()
    node: Any = SimpleNamespace(print_prefix="", noop=noops.append)
    node.get_fact = lambda _: SimpleNamespace(reboot=reason)
    monkeypatch.setattr(reboot, "host", node)
    assert list(reboot.reboot_if_required._inner(5)) == list(reboot.steps(reason, 5))
    assert noops == ([] if reason else ["no reboot is required"])
