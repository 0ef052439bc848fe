"""What a new connection has to show before a change is confirmed over it, and what is said if not; no node."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pyinfra.connectors.util import CommandOutput, OutputLine

from operations.primitives.config_set import ConfigSet
from operations.primitives.confirmed import Confirmation, ConfirmationError, Guarded


def test_another_machine_at_the_new_address_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmation: Any = object.__new__(Confirmation)
    confirmation.connector = SimpleNamespace(client=None, data={})
    confirmation.host = SimpleNamespace(disconnect=lambda: None, connect=lambda **_: None)
    confirmation.keys = {("ssh-ed25519", b"this node's")}
    monkeypatch.setattr(Confirmation, "remote_key", lambda _: ("ssh-ed25519", b"this node's"))
    confirmation.connect("192.168.86.19")
    monkeypatch.setattr(Confirmation, "remote_key", lambda _: ("ssh-ed25519", b"a stranger's"))
    with pytest.raises(ConfirmationError, match=r"another machine answers at 192\.168\.86\.19"):
        confirmation.connect("192.168.86.19")


class Told(Confirmation):
    """A node that answers at its old place only, and what its guard left behind there."""

    def __init__(self, told: dict[str, str], answers: list[tuple[bool, CommandOutput]]) -> None:
        self.kind = Guarded("/usr/bin/guard", "/var/lib/x", ConfigSet(()), "/etc/x.service")
        self.what, self.seconds, self.left, self.answers = "192.168.86.19/24", 1, told, answers

    def connect(self, place: str) -> None:
        if not self.answers:
            raise ConfirmationError("no SSH there.")

    def ask(self, *command: Any, stdin: str | None = None, seconds: float = 30) -> tuple[bool, CommandOutput]:
        return self.answers[0]

    def find(self, back: Sequence[str]) -> str:
        return back[0]

    def told(self) -> dict[str, str]:
        return self.left

    def abandon(self) -> None:
        self.abandoned = True


def answer(status: int, *stderr: str) -> tuple[bool, CommandOutput]:
    lines = [OutputLine("stdout", f"exit {status}"), *(OutputLine("stderr", line) for line in stderr)]
    return True, CommandOutput(lines)


@pytest.mark.parametrize(
    ("told", "answers", "says"),
    [
        (
            {"failed": "", "known": "the gateway 192.168.86.1 does not answer"},
            [],
            "it could not be confirmed at new within 1 s (no SSH there); the node says: the gateway"
            " 192.168.86.1 does not answer",
        ),
        ({}, [], "it could not be confirmed at new within 1 s (no SSH there)"),
        (
            {},
            [answer(75)],
            "it could not be confirmed at new within 1 s (the node did not finish applying it)",
        ),
        (
            {"failed": "`networkctl reload` failed: out of order.", "known": ""},
            [answer(75)],
            "`networkctl reload` failed: out of order",
        ),
        ({"known": "x"}, [answer(1, "guard: it is not on eth0.")], "it is not on eth0"),
        ({"failed": "why"}, [answer(1, "guard: does not wait for a confirmation any more.")], "why"),
    ],
)
def test_what_was_undone_says_why(
    told: dict[str, str], answers: list[tuple[bool, CommandOutput]], says: str
) -> None:
    with pytest.raises(ConfirmationError) as raised:
        Told(told, answers).confirm("6cf7", "new", ["old"])
    assert str(raised.value) == f"192.168.86.19/24 was undone: {says}; the node answers at old."


def test_a_change_is_confirmed_over_a_connection_made_after_it() -> None:
    """One that stood while it was applied would say yes to a door that is shut by now."""

    class Node(Told):
        connections = 0
        log: ClassVar[list[tuple[int, str]]] = []

        def connect(self, place: str) -> None:
            self.connections += 1

        def ask(
            self, *command: Any, stdin: str | None = None, seconds: float = 30
        ) -> tuple[bool, CommandOutput]:
            word = repr(command[-1]).split()[1]
            self.log.append((self.connections, word))
            return answer(75 if word == "applied" and self.connections < 2 else 0)

    Node({}, []).confirm("6cf7", "new", ["old"])
    assert Node.log == [(1, "applied"), (2, "applied"), (3, "confirm")]
