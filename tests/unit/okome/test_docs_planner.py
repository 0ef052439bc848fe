"""docs/03_PLANNER.md: its examples run, and its tables name every counter there is."""

import ast
import asyncio
import doctest
import importlib
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import okome
from bench.redis_server import RedisServer
from okome import planner
from okome.upstream import Upstream

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


async def test_the_example_of_a_codec(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    await examples()["codec_example"](server.url)
    assert capsys.readouterr().out == "{'text': 'forty-two'}\n"


async def test_the_example_in_fastapi(server: RedisServer, tmp_path: Path) -> None:
    page = examples()
    app = page["fastapi_example"](server.url, str(tmp_path / "ledger.sqlite"))

    async def endless(_: object) -> AsyncIterator[str]:
        yield "forty"
        await asyncio.sleep(3600)

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://okome") as client,
    ):
        first = await client.post("/ask", json={"q": 1})
        assert (first.status_code, first.headers["X-OKOME-Cache"]) == (200, "MISS")
        assert first.text == "data: forty\n\ndata: -\n\ndata: two\n\ndata: [DONE]\n\n"
        statuses = []
        for n in range(2, 13):  # a burst of 10
            statuses.append((await client.post("/ask", json={"q": n})).status_code)
        assert statuses[-1] == 429
        # A client that is gone before the first chunk leaves no place behind, and the work stops.
        page["stream_gpu"] = endless
        sent: list[object] = []

        async def send(message: object) -> None:
            sent.append(message)
            raise OSError("gone")

        parts = [{"type": "http.request", "body": b'{"q": "gone"}', "more_body": False}]

        async def receive() -> dict[str, object]:
            return parts.pop() if parts else {"type": "http.disconnect"}

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "path": "/ask",
            "raw_path": b"/ask", "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
            "headers": [(b"authorization", b"ben")], "client": ("127.0.0.1", 1), "server": ("okome", 80),
        }  # fmt: skip
        with pytest.raises(Exception):  # noqa: B017, PT011  # which one is Starlette's to say
            await app(scope, receive, send)
        assert sent
        async with asyncio.timeout(20):
            while app.state.cache._flights:  # noqa: ASYNC110  # it has no event for it
                await asyncio.sleep(0.01)
    assert server.denied() == []


def shown(path: Path) -> str:
    """What a module's docstring shows: its indented lines."""
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


COMMAND_LINE = {"planner"}


@pytest.mark.parametrize(
    "module",
    [
        path.stem
        for path in sorted((ROOT / "okome").glob("*.py"))
        if shown(path) and path.stem not in COMMAND_LINE
    ],
)
async def test_what_a_docstring_shows_runs(
    module: str, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    redis = okome.connect(server.url, timeout=30)
    ledger = okome.Ledger(tmp_path / "ledger.sqlite")
    names = examples()
    names |= {name: getattr(okome, name) for name in okome.__all__}
    names |= {"url": server.url, "request": {"temperature": 0}, "gpu": names["ask_gpu"], "key": "a-key"}
    names["connect"] = lambda _: redis
    names["Response"] = lambda *_, **given: given
    async with (
        okome.Budgets(redis, rules=names["RULES"], ledger=ledger) as names["budgets"],
        okome.Cache(redis, namespace="shown", codec=okome.Msgpack(names["Answer"])) as names["cache"],
    ):
        code = "async def shown():\n" + textwrap.indent(shown(ROOT / "okome" / f"{module}.py"), "    ")
        exec(compile(code, module, "exec"), names)  # noqa: S102  # our own docstring
        await names["shown"]()
    ledger.close()
    await redis.aclose()


@pytest.mark.parametrize("text", [PAGE, planner.__doc__ or ""], ids=["the page", "the module"])
def test_the_planners_command_line_is_one(text: str) -> None:
    shown = re.findall(r"python -m okome\.planner((?:[^\n]|\\\n)*)", text.replace("\\\n", " "))
    assert shown
    for command in shown:
        arguments = planner._arguments(command.split())
        assert arguments.listen == ("192.168.86.25", 8000)
        assert isinstance(planner._source(arguments), Upstream)


def test_the_client_of_a_sentinel_is_made_as_shown() -> None:
    (shown,) = re.findall(r'`(connect_sentinel\("redis:.*?\))` \|', PAGE)
    client = eval(shown.replace(", …", ""), {"connect_sentinel": okome.connect_sentinel})  # noqa: S307  # our own page
    assert client.connection_pool.service_name == "okome"


def test_what_only_a_whole_stream_ends_with() -> None:
    (shown,) = re.findall(r"`(b\"\"\.join\(chunks\).*?)`", PAGE)
    for chunks, whole in (([b"data: [DO", b"NE]\n\n"], True), ([b"data: x\n\n"], False)):
        assert eval(shown, {"chunks": chunks}) is whole  # noqa: S307  # our own page


def test_doctests() -> None:
    tried = 0
    for path in (ROOT / "okome").glob("*.py"):
        if ">>>" in path.read_text():
            result = doctest.testmod(importlib.import_module(f"okome.{path.stem}"))
            assert result.failed == 0, path
            tried += result.attempted
    assert tried


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
