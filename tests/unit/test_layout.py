"""Which way imports run, and what no room but inventory.py and group_data may know."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inventory
from group_data import all as every_node
from group_data import frontends

ROOT = Path(__file__).resolve().parents[2]
# room -> what it may import besides itself: rooms, or what is in them
ARROWS = {
    "facts": set[str](),
    "node": set[str](),
    "okome": set[str](),
    "inventory": set[str](),
    "group_data": {"okome.acl"},
    "config": {"inventory", "group_data"},
    # What both ends have to agree on: an exit status, where the node keeps what is in flight.
    "operations": {"facts", "node.guard", "node.transaction"},
    "deploys": {"operations"},
    "console": {"inventory", "group_data", "operations.primitives.secret"},
    "lab": {"inventory", "group_data"},
    # It measures the rest, on nodes of the lab; no phase, since it deploys as an operator does.
    "bench": {"inventory", "group_data", "okome", "lab", "operations.primitives", "operations.services"},
}
ROOMS = {*ARROWS, "tests"}
FLOORS = ["primitives", "services"]
# What names no address, host or user of the tier.
NAMELESS = ("lab", "operations", "facts", "node", "console", "bench")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(room: str) -> list[Path]:
    return [*(ROOT / room).rglob("*.py")] or [ROOT / f"{room}.py"]


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_run_one_way(room: str) -> None:
    for path in modules(room):
        ours = {
            name for name in imported(ast.parse(path.read_text())) if name.partition(".")[0] in ROOMS - {room}
        }
        wrong = {name for name in ours if not any(f"{name}.".startswith(f"{may}.") for may in ARROWS[room])}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_arrow_is_needed() -> None:
    for room, arrows in ARROWS.items():
        names = {f"{name}." for path in modules(room) for name in imported(ast.parse(path.read_text()))}
        for arrow in arrows:
            assert any(name.startswith(f"{arrow}.") for name in names), f"{room} imports nothing of {arrow}"


def inner(path: Path) -> Iterator[str]:
    """The floors of operations that a module of it imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "operations":
            floor = (node.module or "").split(".")[1:2]
            yield from (f if f in FLOORS else "phases" for f in floor or [one.name for one in node.names])


@pytest.mark.parametrize("floor", [*FLOORS, "phases"])
def test_phases_stand_on_services_and_these_on_primitives(floor: str) -> None:
    """No phase owns what another one needs; their order knows them all."""
    modules = list((ROOT / "operations" / ("" if floor == "phases" else floor)).glob("*.py"))
    modules = [path for path in modules if path.name != "roles.py"]
    assert modules
    allowed = {*FLOORS[: FLOORS.index(floor) + 1]} if floor in FLOORS else {*FLOORS}
    for path in modules:
        assert set(inner(path)) <= allowed, path.relative_to(ROOT)


def test_there_is_one_way_to_the_node_for_its_python() -> None:
    """The path is the destination, the text is that in node/."""
    there = list((ROOT / "templates").rglob("*.py"))
    assert there
    for path in there:
        assert path.is_symlink(), path
        assert path.resolve() == ROOT / "node" / path.name


def test_no_phase_touches_a_stamp() -> None:
    """When a unit was last told what is unit()'s to know, and to write."""
    for path in (ROOT / "operations").glob("*.py"):
        names = set(imported(ast.parse(path.read_text())))
        assert not names & {"facts.units.APPLIED", "facts.ours.STATE"}, path
        assert "/var/lib/okome" not in without_docstrings(path.read_text()), path


def without_docstrings(text: str) -> str:
    """The program's text, its docstrings blanked: they may have examples."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                for number in range(first.lineno, (first.end_lineno or 0) + 1):
                    lines[number - 1] = ""
    return "\n".join(lines)


def test_no_room_knows_where_the_tier_is() -> None:
    addresses = [every_node.lan_gateway, frontends.orchestrator.partition(":")[0]]
    names = [every_node.ssh_user]
    for name, data in inventory.frontends + inventory.backends:
        names.append(name)
        addresses.append(data["address"])
    networks = {address.rpartition(".")[0] + "." for address in addresses}
    known = re.compile("|".join(map(re.escape, [*names, *networks])), re.IGNORECASE)
    for room in NAMELESS:
        for path in (
            path for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".yml", ".lua", ".sh")
        ):
            text = path.read_text()
            for number, line in enumerate(
                (without_docstrings(text) if path.suffix == ".py" else text).splitlines(), 1
            ):
                assert not known.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_who_asks_for_an_address_does_not_wait_for_pyinfra() -> None:
    """A second of import time, for lab, console and bench at each start."""
    program = (
        "import inventory, console.status, lab.__main__, sys;"
        "print({'pyinfra', 'paramiko', 'gevent'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
