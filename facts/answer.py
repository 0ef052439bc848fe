"""What a node answered, and nothing that it said besides: a login shell's start-up files, sudo and PAM may print
before the command does, and after it."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyinfra.api import FactBase, FactError, StringCommand
from pyinfra.context import ctx_host

MARK, END = "::answer::", "::end::"
T = TypeVar("T")


def marked(command: str) -> str:
    """The same command, with the same exit status, whose own output stands between two marks."""
    # A greeting may end without a newline, and so may the command's output.
    return f"echo; echo {MARK}; (\n{command}\n); status=$?; echo; echo {END}; exit $status"


def between_marks(output: Sequence[str]) -> list[str]:
    """The lines of a marked command's own. ValueError where it did not come to say anything."""
    lines = list(output)[output.index(MARK) + 1 :]
    if END not in lines:
        return lines
    end = lines.index(END)
    return lines[: end - 1] if end and not lines[end - 1] else lines[:end]


class Answer(FactBase[T], ABC):
    """A fact whose `command` is marked, whatever it is, and whose `read` sees the command's own lines.

    No line at all is `default()`. Lines that `read` stumbles over are a FactError: one sentence with the fact's
    name and the node's.
    """

    # The command as the class wrote it, without its marks.
    plain: Callable[..., str | StringCommand]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "command" not in vars(cls):
            return
        cls.plain = plain = cls.command

        @functools.wraps(plain)
        def command(*args: Any, **kwargs: Any) -> str:
            return marked(str(plain(*args, **kwargs)))

        command.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined] # pyinfra sorts arguments by it
        cls.command = command

    @abstractmethod
    def read(self, output: list[str]) -> T:
        """What the lines say: the parser of this fact."""

    def process(self, output: list[str]) -> T:
        lines: list[str] = []
        try:
            lines = between_marks(output)
            return self.read(lines) if lines else self.default()
        except Exception as error:  # noqa: BLE001 - whatever a parser stumbles over is the answer's fault
            raise FactError(unreadable(self.name, lines, error)) from None


def unreadable(name: str, lines: Sequence[str], error: Exception) -> str:
    """The sentence for an answer that `name` can't make sense of."""
    host = ctx_host.get()  # type: ignore[no-untyped-call] # pyinfra's own
    node = f"{host.name}: " if host else ""
    start = "\n".join(lines)[:120]
    said = f"begins {start!r}" if start else "is empty"
    return f"{node}{name} can't read the node's answer, which {said} ({type(error).__name__}: {error})."
