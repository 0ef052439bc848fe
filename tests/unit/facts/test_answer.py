"""What reaches a parser of ours, and what is said of what it can't read."""

import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
from inspect import getcallargs
from typing import Any

import click
import paramiko.file
import paramiko.util
import pytest
from pyinfra.api import FactBase, FactError, OperationError, StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine

import facts
from facts.answer import END, MARK, Answer, between_marks, marked
from operations.primitives.ask import own, read


def every_fact() -> list[type[FactBase[Any]]]:
    modules = [
        importlib.import_module(f"facts.{found.name}") for found in pkgutil.iter_modules(facts.__path__)
    ]
    classes = {
        one
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, FactBase)
    }
    return sorted(classes - {Answer, FactBase}, key=str)


def test_every_fact_of_ours_is_an_answer() -> None:
    assert len(every_fact()) > 8
    assert [fact for fact in every_fact() if not issubclass(fact, Answer)] == []
    assert [fact for fact in every_fact() if "process" in vars(fact)] == []


class Words(Answer[list[str]]):
    def command(self, words: tuple[str, ...]) -> str:
        return f"echo {' '.join(words)} | tr ' ' '\\n'"

    def read(self, output: list[str]) -> list[str]:
        if "broken" in output:
            raise LookupError("no such word")
        return output

    @staticmethod
    def default() -> list[str]:
        return ["nothing"]


@pytest.mark.parametrize("lecture", ["", "printf 'We trust you'; ", "echo We trust you; echo; "])
def test_what_others_print_does_not_reach_the_parser(lecture: str) -> None:
    command = f"{lecture}sh -c {shlex.quote(Words().command(words=('a', 'b')))}; {lecture}"
    said = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert Words().process(said.splitlines()) == ["a", "b"]


def test_pyinfra_sorts_the_arguments_of_a_marked_command() -> None:
    assert getcallargs(Words().command, ("a",))["words"] == ("a",)
    with pytest.raises(TypeError):
        getcallargs(Words().command, names=("a",))  # type: ignore[call-arg] # that it is wrong is the test


def test_a_greeting_without_an_answer_is_the_default() -> None:
    assert Words().process(["Welcome", "", MARK, "", END, "Goodbye"]) == ["nothing"]


@pytest.mark.parametrize("output", [["Welcome"], ["Welcome", MARK, "broken", "words"]])
def test_what_can_not_be_read_is_one_sentence_with_the_name_of_the_fact(output: list[str]) -> None:
    with pytest.raises(
        FactError, match=r"^tests\.unit\.facts\.test_answer\.Words can't read .*\.$"
    ) as caught:
        Words().process(output)
    assert caught.value.__cause__ is None
    assert "Welcome" not in str(caught.value)


def test_an_operation_reads_the_same_way() -> None:
    lines = [
        ("stdout", "Welcome"),
        ("stderr", "sudo: be careful"),
        ("stdout", ""),
        ("stdout", MARK),
        ("stdout", "yes"),
        ("stdout", END),
        ("stdout", "Goodbye"),
    ]
    output = CommandOutput([OutputLine(*line) for line in lines])
    assert own(output).stdout_lines == ["yes"]
    assert own(output).stderr_lines == ["sudo: be careful"]
    assert own(CommandOutput([OutputLine("stdout", "Welcome")])).stdout_lines == []
    with pytest.raises(OperationError, match=r"^the guard can't read the node's answer.*'yes' .ValueError"):
        read("the guard", own(output), lambda lines: int(lines[0]))


def test_the_status_is_that_of_the_command() -> None:
    for command, lines in ((":", []), ("printf a", ["a"]), ("echo a; echo", ["a", ""])):
        marked_command = ["sh", "-c", marked(f"{command}; exit 3")]
        done = subprocess.run(marked_command, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, between_marks(done.stdout.splitlines())) == (3, lines)


@pytest.fixture
def quoting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """config.py as pyinfra reads it; what it changes in pyinfra is put back."""
    from gevent.hub import Hub
    from pyinfra import context
    from pyinfra.api import Config, command

    monkeypatch.setattr(command, "shlex", shlex)
    monkeypatch.setattr(paramiko.file, "u", paramiko.util.u)
    monkeypatch.setattr(Hub, "NOT_ERROR", Hub.NOT_ERROR)
    config = Config()  # type: ignore[no-untyped-call] # pyinfra's own
    with context.ctx_config.use(config), click.Context(click.Command("pyinfra")):
        importlib.reload(importlib.import_module("config"))
        yield config


TEXTS = ["plain", "a b", "it's", "\\", "\\\\", "\\'", "a\\'b\\\\\\", '$HOME `date` "x"', "two\nlines\\\n"]


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_survive_a_login_shell(quoting: Any, shell: str, text: str) -> None:
    from pyinfra.api import QuoteString
    from pyinfra.connectors.util import make_unix_command

    inner = StringCommand("printf", "%s", QuoteString(text))
    line = make_unix_command(inner, _shell_executable=quoting.SHELL).get_raw_value()
    # fish takes a backslash between single quotes for an escape of a quote or of itself: there may be none.
    quoted = re.findall(r"""'([^']*)'|"[^"]*"|\\.""", line, re.DOTALL)
    assert not any("\\" in part for part in quoted)
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == text


class Channel(paramiko.file.BufferedFile):  # type: ignore[type-arg]
    """What a node printed, as paramiko reads it."""

    def __init__(self, *said: bytes) -> None:
        super().__init__()
        self.said = [*said]
        self._set_mode("r")  # type: ignore[attr-defined]

    def _read(self, size: int) -> bytes:
        return self.said.pop(0) if self.said else b""


def test_a_greeting_in_another_encoding(quoting: Any) -> None:
    """Whatever it is, the answer behind it arrives."""
    assert list(Channel(b"J\xfcrgen\n", b"yes\n")) == ["J\ufffdrgen\n", "yes\n"]


def test_where_every_command_begins(quoting: Any) -> None:
    from pyinfra.connectors.util import make_unix_command

    line = make_unix_command(StringCommand('umask; echo "$PATH $LC_ALL"'), _shell_executable=quoting.SHELL)
    done = subprocess.run(
        ["env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=de_DE.UTF-8", "sh", "-c", f"umask 077; {line.get_raw_value()}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "0022\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin C.UTF-8\n"
