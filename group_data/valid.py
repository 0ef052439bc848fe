"""What is valid. Each tunable of this folder is declared with it, and all are checked before anything connects.

    redis_port: Port = 6379
    gpu_memory: Annotated[int, Range(16, 512, "MB")] = 16

The type says what kind of value it is, the words behind it what more is asked of that. A name that is neither declared
here nor pyinfra's own is taken for a slip: whoever brings a value of their own declares it, too (`rack: str = "a"`).
"""

import ast
import difflib
import importlib
import ipaddress
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", dict: "a table"}


class Rule(Protocol):
    """What is asked of a value beyond its type."""

    def accepts(self, value: Any) -> bool: ...

    def __str__(self) -> str:
        """What is allowed: "it has to be …" is what stands before it."""


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; `unit` as its field writes it."""

    low: float
    high: float
    unit: str = ""

    def accepts(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}{self.unit and ' '}{self.unit}"


@dataclass(frozen=True)
class Form:
    """A text that matches `pattern` as a whole; `like` says so to a reader."""

    pattern: str
    like: str

    def accepts(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.like


@dataclass(frozen=True)
class IPv4:
    """An IPv4 address; with `port`, ADDRESS:PORT."""

    port: bool = False

    def accepts(self, value: str) -> bool:
        address, _, port = value.partition(":") if self.port else (value, "", "")
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return not self.port or (re.fullmatch(r"\d{1,5}", port) is not None and 1 <= int(port) <= 65535)

    def __str__(self) -> str:
        return "an IPv4 address" + (" and a port, such as 127.0.0.1:80" if self.port else "")


Address = Annotated[str, IPv4()]
Endpoint = Annotated[str, IPv4(port=True)]
Port = Annotated[int, Range(1, 65535)]
Seconds = Annotated[int, Range(1, 86_400, "s")]
Megabytes = Annotated[int, Range(1, 1_000_000, "MB")]
Name = Annotated[str, Form(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a host's name")]
Package = Annotated[str, Form(r"[a-z0-9][a-z0-9+.-]+", "a Debian package")]
Unit = Annotated[
    str, Form(r"[A-Za-z0-9@:_.-]+\.(service|socket|timer)", "a unit such as avahi-daemon.socket")
]
Prefix = Annotated[str, Form(r"/([A-Za-z0-9._~-]+/)+", "a path such as /assets/")]

# What inventory.py says of a host besides.
address: Address


def allowed(hint: Any) -> str:
    """What a declaration allows, in words: "a whole number from 1 to 65535"."""
    if get_origin(hint) is Annotated:
        kind, *rules = get_args(hint)
        words = " and ".join(map(str, rules))
        return words if kind is str else f"{allowed(kind)} {words}"
    if get_origin(hint) in (list, dict):
        many, *of = get_origin(hint).__name__, *map(allowed, get_args(hint))
        return f"a {'table' if many == 'dict' else many}, each {': '.join(of)}"
    return KINDS.get(hint, f"of type {hint}")


def valid(hint: Any, value: Any) -> bool:
    """Whether a value is what its declaration allows."""
    if get_origin(hint) is Annotated:
        kind, *rules = get_args(hint)
        return valid(kind, value) and all(rule.accepts(value) for rule in rules)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(valid(get_args(hint)[0], one) for one in value)
    if get_origin(hint) is dict:
        key, of = get_args(hint)
        return isinstance(value, dict) and all(valid(key, k) and valid(of, v) for k, v in value.items())
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def groups() -> Iterable[types.ModuleType]:
    """The modules of this folder: this one, all.py, and one for each group."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        yield importlib.import_module(f"group_data.{path.stem}")


def declarations() -> dict[str, Any]:
    """Tunable → what is valid, of all groups."""
    modules = [importlib.import_module(__name__), *groups()]
    return {name: hint for one in modules for name, hint in get_type_hints(one, include_extras=True).items()}


def assigned() -> Iterator[tuple[str, str]]:
    """What this folder assigns without a declaration: the name, and where it stands."""
    for module in groups():
        path = Path(str(module.__file__))
        if module.__name__ == __name__:
            continue  # what it assigns are its own words
        for one in ast.parse(path.read_text()).body:
            for target in one.targets if isinstance(one, ast.Assign) else ():
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield target.id, f"{path.parent.name}/{path.name}:{one.lineno}: "


def slip(name: str, declared: Iterable[str]) -> str:
    """The sentence on a name that nothing reads."""
    near = difflib.get_close_matches(name, declared, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{name} is no tunable{meant}; one of your own is declared with its type in group_data."


def complaints(*tables: Mapping[str, Any], pyinfras: Collection[str]) -> list[str]:
    """A sentence for each value that is not valid, and for each name that is none: of the groups, and of `tables`,
    which are what the inventory and the command line say in their place. `pyinfras`: the names that it reads itself.
    """
    declared = declarations()
    found = [{name: getattr(one, name) for name in declared if hasattr(one, name)} for one in groups()]
    named = [*assigned(), *((name, "") for table in tables for name in table)]
    slips = [
        f"{where}{slip(name, (*declared, *pyinfras))}"
        for name, where in dict.fromkeys(named)
        if name not in declared and name not in pyinfras
    ]
    return slips + [
        f"{name} is {value!r}; it has to be {allowed(declared[name])}."
        for table in (*found, *tables)
        for name, value in table.items()
        if name in declared and not valid(declared[name], value)
    ]
