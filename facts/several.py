"""Several questions in one command: what each fact would have cost by itself is a round trip."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactError

from facts.answer import Answer, unreadable

QUESTION, STATUS = "::question::", "::status::"


@dataclass(frozen=True)
class Question:
    """One fact with the arguments of its command."""

    fact: type[Answer[Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def split(output: list[str]) -> list[tuple[list[str], int]]:
    """The lines and the exit status of each question: QUESTION, its lines, `STATUS n`."""
    sections: list[tuple[list[str], int]] = []
    lines: list[str] = []
    for line in output:
        if line == QUESTION:
            lines = []
        elif line.startswith(f"{STATUS} "):
            # The line that ends one without an end of its own; else it is empty.
            sections.append((lines[:-1] if lines and not lines[-1] else lines, int(line.split()[1])))
        else:
            lines.append(line)
    return sections


class Several(Answer[list[Any]]):
    """The answers to all questions, in their order.

    **Example:**

    .. code:: python

        host.get_fact(Several, questions=(Question(Identity), Question(Sysctl, {"keys": ("vm.swappiness",)})))
    """

    def command(self, questions: tuple[Question, ...]) -> str:
        # The same instance reads the answer: of this fact, and of each of those asked.
        self.asked = [question.fact() for question in questions]
        return "\n".join(
            f"echo {QUESTION}\n(\n{fact.plain(**question.arguments)}\n)\nstatus=$?; echo; echo {STATUS} $status"
            for fact, question in zip(self.asked, questions, strict=True)
        )

    def read(self, output: list[str]) -> list[Any]:
        return [self._one(fact, *said) for fact, said in zip(self.asked, split(output), strict=True)]

    @staticmethod
    def _one(fact: Answer[Any], lines: list[str], status: int) -> Any:
        try:
            if status:
                raise ChildProcessError(f"its command failed with status {status}")
            return fact.read(lines) if lines else fact.default()
        except Exception as error:  # noqa: BLE001 - whatever a parser stumbles over is the answer's fault
            raise FactError(unreadable(fact.name, lines, error)) from None

    @staticmethod
    def default() -> list[Any]:
        return []
