"""What the documents name is there: links, files, commands and their words."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import benches
from console.__main__ import COMMANDS
from lab.__main__ import _parser as lab_parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
LAB = set(re.findall(r"^    ([a-z]+) ", lab_parser().format_help(), re.MULTILINE))
ROOMS = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")


def code(text: str) -> str:
    """What is set as code, a line for each piece."""
    return "\n".join(
        re.findall(r"^```.*?^```$|^ {4}\S.*$|(?<!`)`[^`\n]+`(?!`)", text, re.MULTILINE | re.DOTALL)
    )


def module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists() or name in ("pytest", "venv")


# What is named → whether it is there.
NAMED: list[tuple[str, Callable[[str], bool]]] = [
    (r"(?:^|[`(&] ?)make ([a-z][a-z-]*)", TARGETS.__contains__),
    (r"python -m ([\w.]+)", module),
    (r"python -m bench ([a-z]+)", benches().__contains__),
    (r"(?:`|-m )lab ([a-z]+)", LAB.__contains__),
    (r"(?:^|`|-- )okome ([a-z]+)", COMMANDS.__contains__),
    (rf"(?<![\w/.])((?:{ROOMS})/[a-z_0-9/]*(?:\.[a-z]+)?)(?![\w*])", lambda path: (ROOT / path).exists()),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
            assert not heading or heading in [
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
@pytest.mark.parametrize(("pattern", "there"), NAMED, ids=["make", "module", "bench", "lab", "okome", "path"])
def test_what_is_named_is_there(document: Path, pattern: str, there: Callable[[str], bool]) -> None:
    missing = [
        name for name in re.findall(pattern, code(document.read_text()), re.MULTILINE) if not there(name)
    ]
    assert not missing


def test_what_is_looked_for_is_found() -> None:
    """A pattern that no longer finds what it is for would find nothing wrong."""
    everything = "\n".join(code(document.read_text()) for document in DOCUMENTS)
    for pattern, _ in NAMED:
        assert re.findall(pattern, everything, re.MULTILINE), pattern
    assert {"demo", "test", "mutants"} <= TARGETS
    assert {"up", "run", "origin", "down"} <= LAB


def test_every_target_of_make_is_in_the_table() -> None:
    table = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(TARGETS - {"help", "tools"})


def test_pre_commit_runs_what_make_lint_runs() -> None:
    tool = re.compile(r"\b(ruff check|ruff format --check|mypy|tests\.[\w.]*lint)\b")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    hooks = re.findall(r"^ +entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert len(hooks) >= 5
    assert {found[1] for hook in hooks if (found := tool.search(hook))} == set(tool.findall(recipe[1]))
    assert all(map(tool.search, hooks))
