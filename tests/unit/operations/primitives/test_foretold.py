"""What operations ask at once, and when they ask again: pyinfra itself runs them, on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facts.files import FileStates
from facts.several import Question
from facts.units import UnitStates
from operations.primitives.foretold import HOLDS_S, taken, united

ROOT = Path(__file__).resolve().parents[4]
# Each operation notes what it is told of its files, and then does what it is to do.
DEPLOY = """
from pathlib import Path
from pyinfra.api import operation
from facts.answer import Answer
from facts.several import Question
from operations.primitives.foretold import answered, foretold, present

class Contents(Answer[dict[str, str]]):
    def command(self, names: tuple[str, ...]) -> str:
        return f"echo {' '.join(names)} >>asked; grep -H . {' '.join(names)}"

    def read(self, output: list[str]) -> dict[str, str]:
        return dict(line.split(":") for line in output)

def question(names, **_):
    return Question(Contents, {"names": names})

@foretold(question)
@operation()
def told(names, then=""):
    found = present(question(names))
    with Path("told").open("a") as file:
        print(*(f"{name}={found[name]}" for name in names), file=file)
    if then:
        yield then

"""


def run(folder: Path, operations: str, *words: str) -> tuple[list[str], list[str]]:
    """What was asked of the node, one line for each question; what each operation was told."""
    for name in "abc":
        (folder / name).write_text("1\n")
    (folder / "deploy.py").write_text(DEPLOY + operations)
    pyinfra = Path(sys.executable).with_name("pyinfra")
    done = subprocess.run(
        [pyinfra, "@local", "deploy.py", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"},
        input="\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (folder / "told").exists(), done.stdout + done.stderr
    return (folder / "asked").read_text().splitlines(), (folder / "told").read_text().splitlines()


def test_all_is_asked_at_once_while_nothing_changes(tmp_path: Path) -> None:
    asked, told = run(tmp_path, "told(names=('a', 'b'))\ntold(names=('c',))\ntold(names=('c', 'a'))\n", "-y")
    assert asked == ["a b c"]
    assert told == ["a=1 b=1", "c=1", "c=1 a=1"]


def test_who_comes_after_a_change_asks_anew(tmp_path: Path) -> None:
    operations = "told(names=('a',), then='echo 2 >b')\ntold(names=('b',))\ntold(names=('c',))\n"
    asked, told = run(tmp_path, operations, "-y")
    assert asked == ["a b c", "b", "c"]
    assert told == ["a=1", "b=2", "c=1"]


def test_a_command_that_failed_is_a_change_too(tmp_path: Path) -> None:
    operations = "told(names=('a',), then='echo 2 >b; false', _ignore_errors=True)\ntold(names=('b',))\n"
    assert run(tmp_path, operations, "-y")[1] == ["a=1", "b=2"]


def test_another_try_asks_anew(tmp_path: Path) -> None:
    operations = "told(names=('a',), then='echo 2 >a; false', _retries=1, _retry_delay=0)\n"
    assert run(tmp_path, operations, "-y")[1] == ["a=1", "a=2"]


def test_what_was_asked_before_the_first_operation_is_not_asked_again(tmp_path: Path) -> None:
    operations = "answered([question(('a',))], [{'a': 'seen'}])\ntold(names=('a',))\ntold(names=('b',))\n"
    assert run(tmp_path, operations, "-y") == (["b"], ["a=seen", "b=1"])


def test_each_is_asked_as_it_is_put_together_and_all_at_once_as_they_run(tmp_path: Path) -> None:
    """Without -y the operator sees what would change, and may take an hour over it."""
    assert run(tmp_path, "told(names=('a',))\ntold(names=('b',), then='true')\n")[0] == ["a", "b", "a b"]


@pytest.mark.parametrize(("age", "answers"), [(HOLDS_S, [["x"], []]), (HOLDS_S + 1, [[], []])])
def test_an_answer_is_taken_once_and_while_it_holds(age: float, answers: list[list[str]]) -> None:
    other, question = Question(UnitStates, {"units": ("b",)}), Question(UnitStates, {"units": ("a",)})
    known = [(other, "y", 100.0), (question, "x", 100.0)]
    assert [taken(known, question, 100.0 + age) for _ in answers] == answers


def test_one_question_for_all_that_differ_in_names_only() -> None:
    a, ab = Question(UnitStates, {"units": ("a",)}), Question(UnitStates, {"units": ("b", "a")})
    file = Question(FileStates, {"paths": ("/a",)})
    soon = Question(UnitStates, {"units": ("a",), "seconds": 1})
    late = Question(UnitStates, {"units": ("c",), "seconds": 2})
    assert united([a, file, ab, soon, late]) == [
        (Question(UnitStates, {"units": ("a", "b")}), [a, ab]),
        (file, [file]),
        (soon, [soon]),
        (late, [late]),
    ]
