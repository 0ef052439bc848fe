"""When a node is rebooted, and when it is taken for back."""

from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import StringCommand
from pyinfra.api.command import FunctionCommand
from pyinfra.api.exceptions import ConnectError

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
    assert (wait.function, wait.args) == (reboot._wait, (300,))


@pytest.mark.parametrize(
    ("answers", "patience", "back"),
    [
        ("still away away back", 300, True),
        ("back", 300, True),
        ("still", 1, False),
        ("away", 1, False),
    ],
)
def test_a_node_is_back_when_it_answers_without_the_mark(
    monkeypatch: pytest.MonkeyPatch, answers: str, patience: int, back: bool
) -> None:
    """The last of `answers` is what it says for ever; each takes a second."""
    left, now, said = answers.split(), [0.0], list[str]()

    def connect(**_: object) -> None:
        if left[0] == "away":
            raise ConnectError("no route to it")

    def ask(_host: object, command: StringCommand) -> tuple[bool, None]:
        assert command.get_raw_value() == "! test -e /run/okome-before-reboot"
        return left[0] == "back", None

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1 and len(left) > 1:
            left.pop(0)

    node: Any = SimpleNamespace(connect=connect, disconnect=lambda: None)
    node.log_styled = lambda text, **_: said.append(text)
    state: Any = None
    monkeypatch.setattr(reboot, "ask", ask)
    monkeypatch.setattr(reboot, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("gevent.sleep", sleep)
    assert reboot._wait(state, node, patience) == back
    assert (left[1:], said) == (
        [],
        [] if back else [f"it did not come back within {patience} s of its reboot"],
    )


@pytest.mark.parametrize("reason", [None, "/run/reboot-required exists"])
def test_the_operation_does_what_was_decided(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    noops = list[str]()
    node: Any = SimpleNamespace(print_prefix="", noop=noops.append)
    node.get_fact = lambda _: SimpleNamespace(reboot=reason)
    monkeypatch.setattr(reboot, "host", node)
    assert list(reboot.reboot_if_required._inner(5)) == list(reboot.steps(reason, 5))
    assert noops == ([] if reason else ["no reboot is required"])
