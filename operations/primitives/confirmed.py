"""A change that can cut the operator off: the node arms its own undo, applies it, and is told from outside,
over a new connection, to keep it. Without that word it goes back by itself."""

import base64
import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from paramiko import HostKeys, SSHException
from pyinfra.api import Host, OperationError, QuoteString, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput

from facts.ours import GUARD, STATE
from facts.sections import sections
from node.guard import NOT_YET
from operations.primitives.ask import ask, read
from operations.primitives.config_set import TEMPLATES, ConfigFile, ConfigSet, transaction


class ConfirmationError(Exception):
    """Why the change was not made or not kept, in one sentence for the operator."""


REVERT = "/etc/systemd/system/okome-revert@.service"


@dataclass(frozen=True)
class Guarded:
    """A kind of change: `program` is its guard on the node (node/guard.py and a name, or a program around it),
    `state` its folder there, `files` what has to stand there before anything is armed, and `unit` what undoes
    at boot."""

    program: str
    state: str
    files: ConfigSet
    unit: str

    @property
    def pending(self) -> str:
        return f"{self.state}/pending"

    @property
    def contents(self) -> dict[str, bytes]:
        """Its files as they are here."""
        return {path: (TEMPLATES / path.lstrip("/")).read_bytes() for path in self.files.paths}


def plain(name: str) -> Guarded:
    """A kind that is files and commands alone, such as a firewall's rules or a drop-in of sshd."""
    return Guarded(
        program=f"{GUARD} {name}",
        state=f"{STATE}/{name}",
        files=ConfigSet((ConfigFile(GUARD, mode="755"), ConfigFile(REVERT))),
        unit=f"okome-revert@{name}.service",
    )


class NewFile(NamedTuple):
    """`was` is the SHA-256 of the file as it was seen, None where there was none."""

    path: str
    mode: str
    content: bytes
    was: str | None


def request(
    files: Sequence[NewFile],
    apply: Sequence[Sequence[str]] = (),
    undo: Sequence[Sequence[str]] = (),
    **more: Any,
) -> dict[str, Any]:
    """What a guard is asked for: `apply` once the files are in place, `undo` once the old ones are back; `more` is
    for a guard of its own."""
    identity = hashlib.sha256()
    for file in files:
        identity.update(f"{file.path} {file.mode} {hashlib.sha256(file.content).hexdigest()}\n".encode())
    return {
        "sha256": identity.hexdigest(),
        "files": [
            {
                "path": file.path,
                "mode": int(file.mode, 8),
                "content": base64.b64encode(file.content).decode(),
                "was": file.was,
            }
            for file in files
        ],
        "apply": apply,
        "undo": undo,
        **more,
    }


class Confirmation:
    """One node on its way through one change."""

    def __init__(self, host: Host, kind: Guarded, what: str, seconds: int) -> None:
        """`what` is the change in the sentences ("192.168.86.19/24"), `seconds` the time until its undo."""
        if not isinstance(host.connector, SSHConnector):
            raise ConfirmationError(f"{what} is set over SSH only.")
        self.host = host
        self.connector = host.connector
        self.kind = kind
        self.what = what
        self.seconds = seconds
        self.before: str = self.connector.data["ssh_hostname"] or host.name
        self.keys = {self.remote_key()}
        given = host.current_op_global_arguments
        self.arguments = {
            key: value for key, value in (given or {}).items() if key in CONNECTOR_ARGUMENT_KEYS
        }

    # The journey.

    def resume(self, pending: Mapping[str, Any], sha256: str | None, at: str, back: Sequence[str]) -> bool:
        """Deal with what a control machine that died left behind, before anything else is done: finish it, if
        it is this very change and we came by the place where it is confirmed, or have it undone. Whether it
        is finished. What guards it is what it was armed with, and stays until then."""
        self.learn_keys()
        if sha256 and pending["sha256"] == sha256 and self.before == at:
            self.confirm(sha256, at, back)
            return True
        self.abandon()
        self.find(back)
        return False

    def install(self, differing: tuple[ConfigFile, ...]) -> None:
        """Upload what of the guard differs, and have its unit start at boot."""
        if differing:
            stdin = transaction(self.kind.files, self.kind.contents, differing)
            self.check("python3 -I -", *self.kind.files.paths, stdin=stdin)
        self.check("systemctl daemon-reload && systemctl enable --quiet", self.kind.unit)

    def arm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Arm the undo; the node applies the change a moment later, unless its answer is a refusal."""
        try:
            done, output = self.ask(
                self.kind.program, "arm", stdin=json.dumps({**request, "seconds": self.seconds})
            )
        except ConfirmationError as error:
            raise ConfirmationError(
                f"{error}; what the node may have begun, it undoes within {self.seconds} s."
            ) from error
        if not done:
            raise ConfirmationError(f"nothing was changed: {said(output)}")
        return read("the guard's call", output, lambda lines: dict(json.loads(lines[-1])))

    def confirm(self, sha256: str, at: str, back: Sequence[str]) -> None:
        """Confirm over new connections to `at`, or wait for the undo at one of the places in `back`, and say
        what the node knows: why it could not apply the change, or how it looked from there."""
        deadline = time.monotonic() + self.seconds
        trouble, applied = "nobody answered there", False
        while time.monotonic() < deadline:
            # What was connected while the change was being applied proves nothing: only once the node has said
            # that it is, the next connection is a new one.
            word = "confirm" if applied else "applied"
            command = QuoteString(f"{self.kind.program} {word} {sha256}; echo exit $?")
            try:
                self.connect(at)
                done, output = self.ask("sh -c", command, seconds=20)
                status = read("the guard's call", output, exit_status) if done else 1
            except (ConfirmationError, OperationError) as error:
                trouble = str(error)
            else:
                if not applied and status != NOT_YET:
                    applied = True
                    continue
                if status == 0:
                    return
                if status != NOT_YET:
                    self.abandon()
                    reached = self.find(back)
                    raise ConfirmationError(self.undone(self.told().get("failed") or said(output), reached))
                trouble = "the node did not finish applying it"
            gevent.sleep(0.3)
        reached = self.find(back)
        told = self.told()
        trouble = f"it could not be confirmed at {at} within {self.seconds} s ({trouble.rstrip('.')})"
        known = f"; the node says: {told['known']}" if told.get("known") else ""
        raise ConfirmationError(self.undone(told.get("failed") or f"{trouble}{known}", reached))

    def undone(self, reason: str, reached: str) -> str:
        """How it ended."""
        return f"{self.what} was undone: {reason.rstrip('.')}; the node answers at {reached}."

    def told(self) -> dict[str, str]:
        """What the guard left behind: why the change failed, and what it knew when it undid it."""
        parts = " ".join(f"{self.kind.state}/{part}" for part in ("failed", "known"))
        script = QuoteString(
            f'for file in {parts}; do echo "::${{file##*/}}"; ! test -e $file || cat $file; echo; done'
        )
        _, output = self.ask("sh -c", script, seconds=10)
        return {name: " ".join(lines) for name, lines in sections(output.stdout_lines).items()}

    def abandon(self) -> None:
        """Have the node run its undo now, detached from this connection."""
        # Should this not get through: the undo's timer runs there anyway, and `find` waits for it.
        with contextlib.suppress(ConfirmationError):
            self.ask(self.kind.program, "abandon", seconds=10)

    def find(self, back: Sequence[str]) -> str:
        """Connect to the node where it answered before, once its undo is through."""
        places = list(dict.fromkeys([self.before, *back]))
        deadline = time.monotonic() + self.seconds + 45
        while time.monotonic() < deadline:
            for place in places:
                try:
                    self.connect(place)
                    pending, _ = self.ask(f"test -e {self.kind.pending}", seconds=10)
                except ConfirmationError:
                    continue
                if not pending:
                    return place
            gevent.sleep(0.5)
        raise ConfirmationError(f"the node does not answer any more, neither at {' nor at '.join(places)}.")

    # What is asked of the node, each within a time.

    def ask(self, *command: Any, stdin: str | None = None, seconds: float = 30) -> tuple[bool, CommandOutput]:
        """Run a command there. A dead link is a ConfirmationError: pyinfra's own _timeout does not end it."""
        try:
            with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:.0f} s")):
                return ask(self.host, StringCommand(*command), **self.arguments | {"_stdin": stdin})
        except (OSError, EOFError, SSHException) as error:
            raise ConfirmationError(f"the connection broke ({error})") from error

    def check(self, *command: str, stdin: str | None = None) -> None:
        """Run a command that has to work."""
        done, output = self.ask(*command, stdin=stdin)
        if not done:
            raise ConfirmationError(f"nothing was changed: {said(output)}")

    # Connections, to the machine whose host keys we know.

    def learn_keys(self) -> None:
        """All host keys of the node: known_hosts may make SSH prefer another type at another place."""
        _, output = self.ask("cat /etc/ssh/ssh_host_*_key.pub", seconds=10)
        self.keys |= read("the list of host keys", output, host_keys)

    def refuse_a_stranger(self, place: str) -> None:
        """A re-imaged node has new host keys: better said now than found out over the new connection."""
        file = Path(self.connector.data["ssh_known_hosts_file"] or "~/.ssh/known_hosts").expanduser()
        known = HostKeys(str(file)).lookup(place) if file.exists() else None
        if known and not any((kind, key.asbytes()) in self.keys for kind, key in known.items()):
            raise ConfirmationError(
                f"{file} knows another machine at {place}: nothing was changed. If this node was"
                f" imaged anew, run: ssh-keygen -f {file} -R {place}"
            )

    def connect(self, place: str) -> None:
        """A new connection; what answers there has to be this node."""
        if self.connector.client:
            self.connector.client.close()
        self.host.disconnect()
        self.connector.data["ssh_hostname"] = place
        try:
            with gevent.Timeout(15, TimeoutError(f"no SSH at {place} within 15 s")):
                self.host.connect(show_errors=False, raise_exceptions=True)
        except (ConnectError, OSError, EOFError, SSHException) as error:
            raise ConfirmationError(str(error)) from error
        if self.remote_key() not in self.keys:
            raise ConfirmationError(f"another machine answers at {place}: its host key is not this node's")

    def remote_key(self) -> tuple[str, bytes]:
        """The host key of the machine at the other end."""
        transport = self.connector.client.get_transport() if self.connector.client else None
        if transport is None:
            raise ConfirmationError("there is no SSH connection")
        key = transport.get_remote_server_key()
        return key.get_name(), key.asbytes()


def host_keys(lines: list[str]) -> set[tuple[str, bytes]]:
    """`KIND BASE64 COMMENT` lines of public host keys."""
    return {(kind, base64.b64decode(blob)) for kind, blob, *_ in map(str.split, lines)}


def exit_status(lines: list[str]) -> int:
    """The last line: `exit STATUS`."""
    return int(lines[-1].removeprefix("exit "))


def said(output: CommandOutput) -> str:
    """The guard's sentence."""
    lines = output.stderr_lines
    return lines[-1].removeprefix("guard: ") if lines else "the node gave no reason"
