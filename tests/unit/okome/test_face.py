"""`import okome`: what it offers, and what it costs."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import okome

ROOT = Path(__file__).parents[3]


def by_type_checkers() -> dict[str, str]:
    """Name -> module, as mypy and editors see them."""
    tree = ast.parse((ROOT / "okome/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_what_is_promised_is_there() -> None:
    assert okome.__all__ == sorted(okome.__all__)
    assert set(by_type_checkers()) == set(okome.__all__) <= set(dir(okome))
    for name, module in by_type_checkers().items():
        assert getattr(okome, name) is getattr(sys.modules[module], name), name
    with pytest.raises(AttributeError, match="no attribute 'Cash'"):
        _ = okome.Cash


def test_all_of_it_is_documented() -> None:
    undocumented = [name for name in okome.__all__ if not inspect.getdoc(getattr(okome, name))]
    assert undocumented == []


def test_every_exception_of_the_library_is_an_okome_error() -> None:
    """Wherever it is defined, the planner's included."""
    bases = {
        node.name: ast.unparse(node.bases[0])
        for path in (ROOT / "okome").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name != "OkomeError"
    }
    for name, base in bases.items():
        assert base == "OkomeError" or bases.get(base) == "OkomeError", name


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("import okome, okome.acl", ["redis", "msgspec", "zstandard", "asyncio", "sqlite3"]),
        ("from okome import *", ["httpx", "starlette", "uvicorn", "prometheus_client"]),
    ],
)
def test_importing_brings_along_only_what_it_needs(imported: str, absent: list[str]) -> None:
    program = f"import sys\n{imported}\nprint([name for name in {absent} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"
