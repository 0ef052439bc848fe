"""docs/03_PLANNER.md: its examples run, and its tables name every counter there is."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from bench.redis_server import RedisServer

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "03_PLANNER.md").read_text()


def examples() -> dict[str, Any]:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    names: dict[str, Any] = {"__name__": "examples"}
    exec(compile(code, "03_PLANNER.md", "exec"), names)  # noqa: S102  # our own page
    return names


async def test_the_cache_example(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    await examples()["cache_example"](server.url)
    assert (
        "forty-two {'X-OKOME-Cache': 'MISS', 'Cache-Status': 'okome; fwd=uri-miss; stored'"
        in capsys.readouterr().out
    )


async def test_the_budget_example(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await examples()["budget_example"](server.url, str(tmp_path / "ledger.sqlite"))
    assert capsys.readouterr().out.startswith("200 {'RateLimit-Policy': ")
    assert server.denied() == []


async def test_the_example_of_both(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = examples()["metered_example"]
    for status in ("MISS", "HIT"):
        await example(server.url, str(tmp_path / "ledger.sqlite"))
        said = capsys.readouterr().out
        assert said.startswith(f"forty-two {{'X-OKOME-Cache': '{status}'")
        assert ("x-ratelimit-remaining-tokens" in said) is (status == "MISS")
        assert said.endswith("b'data: two\\n\\n', b'data: [DONE]\\n\\n']\n")
    assert server.denied() == []


def test_every_counter_is_explained() -> None:
    """In whichever module it is counted: all of them count into the one Counter of a Cache or of Budgets."""
    names = {
        constant.value
        for path in (ROOT / "okome").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in ("counts", "_counts")
        for constant in ast.walk(node.slice)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    assert len(names) > 25
    assert {name for name in names if not re.search(rf"\b{name}\b", PAGE)} == set()
