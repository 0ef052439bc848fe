"""A set of configuration files that lands on the node as one transaction, or not at all."""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from pyinfra import host
from pyinfra.api import OperationError, QuoteString, StringCommand, operation

from facts.files import FilesState, FileStates
from facts.several import Question
from operations.primitives.checkers import CHECK_SECONDS, CHECKERS
from operations.primitives.foretold import foretold, present

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = REPOSITORY / "templates"
TRANSACTION = REPOSITORY / "node/transaction.py"


@dataclass(frozen=True)
class ConfigFile:
    """One file. `template` defaults to templates/<path>.j2, or templates/<path> taken as it is; `absent` is a
    leftover to be removed."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: str = "644"
    template: str | None = None
    absent: bool = False

    def __post_init__(self) -> None:
        # What is to be removed was found on a node, and may be called as its author liked.
        plain = r"(/[^\n\0]+)+" if self.absent else r"(/[A-Za-z0-9@_+:.-]+)+"
        if not re.fullmatch(plain, self.path) or "/../" in self.path:
            raise OperationError(f"{self.path!r} is not an absolute path of plain characters")
        if not re.fullmatch(r"[0-7]{3,4}", self.mode):
            raise OperationError(f"{self.path}: mode {self.mode!r} is not octal digits such as 644")


@dataclass(frozen=True)
class ConfigSet:
    """Files that only make sense together. `check` names a checker; `values` are template variables besides
    the host's data, and win over it. They may be secret, so they are in no repr. `revertible`: what stood there
    is kept until the unit that runs with the set has been told and does its work, and comes back if it does not."""

    files: tuple[ConfigFile, ...]
    check: str | None = None
    values: Mapping[str, object] = field(default_factory=dict, repr=False)
    revertible: bool = False

    def __post_init__(self) -> None:
        if self.check is not None and self.check not in CHECKERS:
            raise OperationError(f"no checker is called {self.check!r}; there are {', '.join(CHECKERS)}")

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)


@functools.cache
def _environment(templates: Path) -> Environment:
    """One for all files: it keeps what it has compiled, and each is rendered more than once."""
    return Environment(  # noqa: S701 - configuration files, not HTML
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(file: ConfigFile, variables: Mapping[str, object], templates: Path) -> bytes:
    """The content of one file. Raises OperationError with the template's name if it can't be made."""
    name = file.template or f"{file.path.lstrip('/')}.j2"
    if file.template is None and not (templates / name).exists():
        name = name.removesuffix(".j2")
    if not (templates / name).is_file():
        raise OperationError(f"{file.path} has no template {name} in {templates.name}/")
    if not name.endswith(".j2"):
        return (templates / name).read_bytes()
    try:
        return _environment(templates).get_template(name).render(variables).encode(errors="surrogateescape")
    except TemplateError as error:
        raise OperationError(f"template {name}: {error.message}") from error


def rendered(
    config: ConfigSet, data: Mapping[str, object], templates: Path = TEMPLATES
) -> dict[str, bytes | None]:
    """Path → content, in the order of the set; None for a file to be removed."""
    variables = {**data, **config.values}
    return {file.path: None if file.absent else render(file, variables, templates) for file in config.files}


def digest(config: ConfigSet, contents: Mapping[str, bytes | None]) -> str:
    """SHA-256 over everything that the set puts on a node: paths, owners, modes and contents.

    Not what is to be absent: where it is, the transaction that removes it makes its unit be told.
    """
    total = hashlib.sha256()
    for file in config.files:
        if (content := contents[file.path]) is not None:
            what = hashlib.sha256(content).hexdigest()
            total.update(f"{file.path} {file.owner} {file.group} {int(file.mode, 8):o} {what}\n".encode())
    return total.hexdigest()


def differing(
    config: ConfigSet, contents: Mapping[str, bytes | None], found: FilesState
) -> tuple[ConfigFile, ...]:
    """The files of the set that are not on the node as they should be.

    All of them while a transaction is pending: it is undone first, and then none may be what it seems.
    """
    if found.pending:
        return config.files
    different = []
    for file in config.files:
        state, content = found.files.get(file.path), contents[file.path]
        if content is None:
            right = state is None
        else:
            right = state is not None and (
                (state.kind, int(state.mode, 8), state.owner, state.group, state.sha256)
                == ("f", int(file.mode, 8), file.owner, file.group, hashlib.sha256(content).hexdigest())
            )
        if not right:
            different.append(file)
    return tuple(different)


def _program(request: Mapping[str, object]) -> str:
    """The program for the node: transaction.py and the call of its `main` with the request."""
    request = {**request, "check_seconds": CHECK_SECONDS}
    return f"{TRANSACTION.read_text()}\nsys.exit(main({json.dumps(request)!r}))\n"


def restoration(paths: tuple[str, ...]) -> str:
    """The program that brings back what stood at `paths` when the unit that runs with them was last told."""
    return _program({"paths": paths})


def transaction(
    config: ConfigSet, contents: Mapping[str, bytes | None], files: tuple[ConfigFile, ...]
) -> str:
    """The program that puts `files` of the set in place."""
    request = {
        "files": [
            {
                "path": file.path,
                "owner": file.owner,
                "group": file.group,
                "mode": file.mode,
                "content": None
                if (content := contents[file.path]) is None
                else base64.b64encode(content).decode(),
            }
            for file in files
        ],
        "paths": config.paths,
        "check": CHECKERS[config.check] if config.check else None,
        "keep": config.revertible,
    }
    return _program(request)


def host_data() -> dict[str, object]:
    """What the inventory says of the host in hand; templates see these as their variables."""
    return dict(host.data.dict())  # type: ignore[no-untyped-call] # pyinfra's own


def _question(config: ConfigSet, **_: object) -> Question:
    return Question(FileStates, {"paths": config.paths})


@foretold(_question)
@operation()
def config_set(config: ConfigSet) -> Generator[StringCommand, None, None]:
    """
    Bring a set of files to the node: all of them, checked together, or none.

    + config: the files, how they are checked, and what their templates need

    A refusal by the checker puts everything back and fails the operation with the checker's own words. What
    runs with these files is told by `operations.primitives.unit.unit`.

    **Example:**

    .. code:: python

        REDIS = ConfigSet((ConfigFile("/etc/redis/redis.conf", "redis", "redis", "640"),), check="redis")
        config_set(name="Redis configuration", config=REDIS)
    """
    contents = rendered(config, host_data())
    found = present(_question(config))
    files = differing(config, contents, found)
    if not files:
        host.noop(f"{', '.join(config.paths)} are as they should be")
        return
    # The names are arguments only so that a log and `ps` say what this is.
    names = [QuoteString(file.path) for file in files]
    yield StringCommand("python3", "-I", "-", *names, _stdin=transaction(config, contents, files))
