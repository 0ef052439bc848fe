"""A command whose answer an operation reads: its own output, whatever the node's login shell prints besides."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from paramiko import SSHException
from pyinfra.api import OperationError, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput, OutputLine

from facts.answer import between_marks, marked, unreadable

T = TypeVar("T")
CUT = "::command::"


def ask(host: Host, command: StringCommand, **arguments: Any) -> tuple[bool, CommandOutput]:
    """Run a command as root; (whether it exited with 0, what itself printed).

    `arguments` are pyinfra's own of a connector, such as _stdin.
    """
    given = {"_sudo": True, "_shell_executable": host.state.config.SHELL, **arguments}
    # pyinfra masks what is secret in a command when it prints it: so the command stays a StringCommand.
    before, after = marked(CUT).split(CUT)
    done, output = host.run_shell_command(StringCommand(before, command, after, _separator=""), **given)
    return done, own(output)


def connected(callback: Callable[..., bool]) -> Callable[..., bool]:
    """For what pyinfra calls back: a connection that breaks fails the operation. operations.primitives.connection has
    the sentence for it; pyinfra would print a traceback."""

    @functools.wraps(callback)
    def called(state: State, host: Host, *arguments: Any) -> bool:  # pyinfra looks for these two names
        try:
            return callback(state, host, *arguments)
        except (OSError, EOFError, SSHException):
            return False

    return called


def own(output: CommandOutput) -> CommandOutput:
    """Without what others printed on stdout; stderr as it is."""
    try:
        stdout = between_marks(output.stdout_lines)
    except ValueError:
        stdout = []  # the command did not begin
    stderr = [line for line in output.combined_lines if line.buffer_name != "stdout"]
    return CommandOutput([*(OutputLine("stdout", line) for line in stdout), *stderr])


def read(name: str, output: CommandOutput, parser: Callable[[list[str]], T]) -> T:
    """What the parser makes of the lines. OperationError, in one sentence with `name`, where it can't."""
    try:
        return parser(output.stdout_lines)
    except Exception as error:  # noqa: BLE001 - whatever a parser stumbles over is the answer's fault
        raise OperationError(unreadable(name, output.stdout_lines, error)) from None
