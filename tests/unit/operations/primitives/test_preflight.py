"""Several facts in one command, and what is found before anything changes."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import FactError

from facts.answer import Answer
from facts.files import Digest
from facts.several import Question, Several
from operations.primitives.preflight import Look, answer, judged


class Words(Answer[list[str]]):
    def command(self, words: tuple[str, ...], status: int = 0) -> str:
        return f"for word in {' '.join(words)}; do printf ' %s' $word; done; exit $(({status}))"

    def read(self, output: list[str]) -> list[str]:
        if "broken" in output[0]:
            raise LookupError("no such word")
        return output[0].split()

    @staticmethod
    def default() -> list[str]:
        return ["nothing"]


def asked(*questions: Question) -> list[Any]:
    fact = Several()
    command = ["sh", "-c", f"echo Welcome; {fact.command(questions=questions)}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return fact.process(said.splitlines())


def test_each_fact_gets_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    questions = (
        Question(Words, {"words": ("a", "b")}),
        Question(Digest, {"path": str(tmp_path / "there")}),
        Question(Words, {"words": ()}),
        Question(Digest, {"path": str(tmp_path / "gone")}),
        Question(Words, {"words": ("c",)}),
    )
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert asked(*questions) == [["a", "b"], empty, ["nothing"], None, ["c"]]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(Words, {"words": ("broken",)}), "begins ' broken' .LookupError: no such word"),
        (
            Question(Words, {"words": ("a",), "status": 3}),
            "ChildProcessError: its command failed with status 3",
        ),
    ],
)
def test_the_fact_that_has_no_answer_is_named(question: Question, reason: str) -> None:
    with pytest.raises(FactError, match=rf"test_preflight\.Words can't read .*{reason}"):
        asked(Question(Words, {"words": ("a",)}), question)


A, B = Question(Words, {"words": ("a",)}), Question(Words, {"words": ("b",)})
SEEN = [(A, ["a"]), (B, ["b"])]


def test_all_findings_at_once_and_each_once() -> None:
    def missing(*answers: list[str]) -> list[str]:
        return [f"there is {word}" for words in answers for word in words]

    assert judged([Look((A,), missing), Look((B, A), missing), Look((B,))], SEEN) == [
        "there is a",
        "there is b",
    ]
    assert judged([Look((A,))], SEEN) == []


def test_what_was_not_asked_is_not_made_up() -> None:
    assert answer(SEEN, Question(Words, {"words": ("b",)})) == ["b"]
    with pytest.raises(KeyError):
        answer(SEEN, Question(Words, {"words": ("c",)}))
