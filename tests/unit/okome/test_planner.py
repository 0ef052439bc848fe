"""The example planner as it is run: its own process, its command line, a real Redis, HTTP over loopback."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.ports import free_port
from bench.redis_server import RedisServer
from okome.openai import DONE
from okome.planner import main

QUESTION = {
    "model": "rice-7b",
    "messages": [{"role": "user", "content": "how many grains"}],
    "temperature": 0,
    "max_tokens": 5,
}


@contextmanager
def running(url: str, folder: Path, *options: str, under: Sequence[str] = ()) -> Iterator[httpx.Client]:
    """`under`: a command that becomes the one that follows it."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(*under, sys.executable, "-m", "okome.planner", "--listen", f"127.0.0.1:{port}"),
            *("--ledger", str(folder / "ledger.sqlite"), "--latency", "0.05", *options),
        ],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OKOME_REDIS_URL": url},
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.get("/health")
                break
            except httpx.TransportError:
                assert process.poll() is None, "the planner ended"
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def _planner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("planner")
    with RedisServer() as server:
        with running(server.url, folder, "--tokens-per-second", "1000", "--tokens-per-day", "100") as client:
            yield client
        assert server.denied() == []


@pytest.fixture
def planner(_planner: httpx.Client) -> httpx.Client:
    """One planner for the module; each test has an API key, and so a cache and a budget, of its own."""
    _planner.headers["Authorization"] = f"Bearer {secrets.token_hex(8)}"
    return _planner


def ask(planner: httpx.Client, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    return planner.post("/v1/chat/completions", json={**QUESTION, **changes}, headers=headers)


def without_ids(text: str) -> str:
    """Each answer has one of its own."""
    return re.sub(r'"id":"chatcmpl-[0-9a-f]+"', '"id":""', text)


class Growth:
    """What a counter of /metrics has grown by since."""

    def __init__(self, planner: httpx.Client, name: str, event: str) -> None:
        self._of = (planner, name, event)
        self._before = metric(*self._of)

    def __call__(self) -> float:
        return metric(*self._of) - self._before


def metric(planner: httpx.Client, name: str, event: str) -> float:
    found = re.search(rf'^{name}_total{{event="{event}"}} (\S+)$', planner.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def eventually(condition: Callable[[], object], wanted: object) -> None:
    """A write-back or a settlement ends a moment after the answer."""
    deadline = time.monotonic() + 60
    while condition() != wanted:
        assert time.monotonic() < deadline, condition()
        time.sleep(0.01)


def test_a_hit_costs_no_tokens(planner: httpx.Client) -> None:
    stored = Growth(planner, "okome_cache", "stored")
    computed, allowed = Growth(planner, "okome_gpu", "requests"), Growth(planner, "okome_budget", "allowed")
    first = ask(planner)
    assert first.status_code == 200
    assert first.headers["X-OKOME-Cache"] == "MISS"
    assert first.headers["Cache-Status"] == "okome; fwd=uri-miss; stored"
    assert first.headers["x-ratelimit-limit-tokens"] == "100"
    assert first.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    eventually(stored, 1)
    for _ in range(20):
        again = ask(planner)
        assert again.headers["X-OKOME-Cache"] == "HIT"
        assert again.headers["Cache-Status"].startswith("okome; hit; ttl=")
        assert "Age" in again.headers
        assert again.json() == {**first.json(), "id": again.json()["id"]}
        assert again.json()["id"] != first.json()["id"]
    assert (computed(), allowed()) == (1, 1)


def test_the_stand_in_is_deterministic(planner: httpx.Client) -> None:
    contents = {
        ask(planner, {"Cache-Control": "no-cache"}).json()["choices"][0]["message"]["content"]
        for _ in range(3)
    }
    assert len(contents) == 1
    other = ask(planner, messages=[{"role": "user", "content": "another"}]).json()
    assert other["choices"][0]["message"]["content"] not in contents


def test_a_stream_is_forwarded_stored_and_replayed(planner: httpx.Client) -> None:
    stored = Growth(planner, "okome_cache", "stored")
    first = ask(planner, stream=True)
    assert first.headers["content-type"].startswith("text/event-stream")
    assert first.headers["X-OKOME-Cache"] == "MISS"
    events = first.text.strip().split("\n\n")
    assert events[-1] == DONE.decode().strip()
    words = [
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content")
        for event in events[:-1]
    ]
    assert len(words) == 6
    eventually(stored, 1)
    again = ask(planner, stream=True)
    assert again.headers["X-OKOME-Cache"] == "HIT"
    assert without_ids(again.text) == without_ids(first.text)
    assert ask(planner).headers["X-OKOME-Cache"] == "MISS"  # another request: not a stream


def test_the_first_chunk_comes_before_the_last_exists(server: RedisServer, tmp_path: Path) -> None:
    with running(server.url, tmp_path, "--tokens-per-second", "2") as planner:
        with planner.stream(
            "POST", "/v1/chat/completions", json={**QUESTION, "stream": True, "max_tokens": 40}
        ) as answer:
            next(answer.iter_raw())
            assert metric(planner, "okome_gpu", "tokens") < 40
        # Hanging up stopped the work; what was generated is charged, and nothing is stored.
        eventually(lambda: metric(planner, "okome_budget", "settled"), 1)
        assert metric(planner, "okome_gpu", "tokens") < 40
        assert metric(planner, "okome_cache", "stored") == 0
        assert ask(planner, max_tokens=1).headers["x-ratelimit-remaining-tokens"] < "999996"


def test_over_budget_is_429_and_says_when(planner: httpx.Client) -> None:
    assert ask(planner, max_tokens=90).status_code == 200
    denied = ask(planner, max_tokens=91)
    assert denied.status_code == 429
    assert denied.json()["error"]["type"] == "insufficient_quota"
    assert int(denied.headers["Retry-After"]) <= 86400
    assert '"tokens-per-day";r=' in denied.headers["RateLimit"]
    assert ask(planner, {"Authorization": "Bearer another"}, max_tokens=91).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_over_budget_is_429_for_what_is_never_cached_too(planner: httpx.Client, stream: bool) -> None:
    allowed = ask(planner, stream=stream, temperature=0.7, max_tokens=90)
    assert (allowed.status_code, allowed.headers["X-OKOME-Cache"]) == (200, "BYPASS")
    assert allowed.headers["x-ratelimit-limit-tokens"] == "100"
    denied = ask(planner, stream=stream, temperature=0.7, max_tokens=91)
    assert denied.status_code == 429
    assert '"tokens-per-day";r=' in denied.headers["RateLimit"]


def test_another_api_key_has_another_cache(planner: httpx.Client) -> None:
    ask(planner, {"Authorization": "Bearer one"})
    assert ask(planner, {"Authorization": "Bearer two"}).headers["X-OKOME-Cache"] == "MISS"


def test_what_is_not_deterministic_is_not_cached(planner: httpx.Client) -> None:
    for _ in range(2):
        assert ask(planner, temperature=0.7).headers["X-OKOME-Cache"] == "BYPASS"
    assert ask(planner, temperature=0.7, seed=7).headers["X-OKOME-Cache"] == "BYPASS"


def test_directives(planner: httpx.Client) -> None:
    assert ask(planner, {"Cache-Control": "only-if-cached"}).status_code == 504
    for stream in (False, True):
        never = {"Cache-Control": "only-if-cached, no-store"}
        assert ask(planner, never, stream=stream).status_code == 504
        anew = {"Cache-Control": "only-if-cached"}
        assert ask(planner, anew, stream=stream, temperature=0.7).status_code == 504
    assert ask(planner, {"Cache-Control": "no-store"}).headers["X-OKOME-Cache"] == "BYPASS"
    assert ask(planner, {"Cache-Control": "no-cache"}).headers["X-OKOME-Cache"] == "MISS"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model": "m"}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5000}',
        b'{"model": "m", "messages": "x"}',
        b"\xff\xfe",
        b'{"x":' * 100_000,
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
def test_a_bad_request_is_400(planner: httpx.Client, body: bytes) -> None:
    answer = planner.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_deeply_nested_request_is_told_so_in_one_sentence(planner: httpx.Client) -> None:
    answer = planner.post("/v1/chat/completions", content=b'{"model": ' + b"[" * 100_000)
    assert answer.json()["error"]["message"] == "the request is nested too deeply"


def test_a_huge_request_is_413(planner: httpx.Client) -> None:
    assert planner.post("/v1/chat/completions", content=b"x" * 2**21).status_code == 413


def test_assets(planner: httpx.Client) -> None:
    style = planner.get("/assets/app.css")
    assert style.headers["Cache-Control"] == "public, max-age=3600"
    unchanged = planner.get("/assets/app.css", headers={"If-None-Match": style.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert planner.get("/assets/none.css").status_code == 404


def test_metrics_name_no_user(planner: httpx.Client) -> None:
    ask(planner, {"Authorization": "Bearer top-secret"}, model="a-model-of-mine")
    text = planner.get("/metrics").text
    labels = set(re.findall(r'(\w+)="', text))
    assert labels <= {"event", "cache", "le", "mode"}
    assert "secret" not in text
    assert "a-model-of-mine" not in text


def health(planner: httpx.Client, *names: str) -> tuple[object, ...]:
    """Its status code, and what it says of these."""
    answer = planner.get("/health")
    return (answer.status_code, *[answer.json()[name] for name in names])


def test_it_gives_no_tokens_away_where_nobody_decides_without_redis(
    own_server: RedisServer, tmp_path: Path
) -> None:
    with running(own_server.url, tmp_path, "--on-unavailable", "share") as planner:
        said = {"status": "ok", "mode": "redis", "redis": "ok", "ledger": "ok"}
        assert planner.get("/health").json() == said
        assert ask(planner).status_code == 200
        own_server.kill()
        eventually(
            lambda: health(planner, "status", "mode", "redis"), (503, "refusing", "refusing", "unavailable")
        )
        assert mode(planner) == "refusing"
        refused = ask(planner)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        own_server.start()
        eventually(lambda: ask(planner).status_code, 200)
        eventually(lambda: planner.get("/health").json(), said)
        assert mode(planner) == "redis"
        assert metric(planner, "okome_budget", "seeded") == 2  # at its first use, and after the loss


def mode(planner: httpx.Client) -> str:
    """By /metrics."""
    (found,) = re.findall(
        r'^okome_budget_mode{mode="(\w+)"} 1.0$', planner.get("/metrics").text, re.MULTILINE
    )
    return str(found)


def test_a_password_on_the_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--redis-url", "redis://okome:secret@127.0.0.1", "--ledger", str(tmp_path / "l")]) == 2
    error = capsys.readouterr().err
    assert "OKOME_REDIS_URL" in error
    assert "secret" not in error


@pytest.mark.parametrize("listen", ["8000", "host:", "host:99999", ":x"])
def test_a_bad_address_is_refused(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--listen", listen])
    assert exit_.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err


def shape(answer: httpx.Response) -> dict[str, object]:
    """What is told instead of an answer, in OpenAI's shape."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    told: dict[str, object] = error
    return told


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "truncated"),
        (b"null", 400, "Expected `object`"),
        (b"[]", 400, "Expected `object`"),
        (b'{"model": "m"', 400, "truncated"),
        (b"hello", 400, "malformed"),
        (b'{"model": "\xff", "messages": [{"role": "user", "content": "x"}]}', 400, "utf-8"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, ""),
        (
            b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
            400,
            "malformed",
        ),
        (b'{"model": "m", "temperature": 1e400, "messages": []}', 400, "out of range"),
        (b'{"model": "m", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "nested too deeply"),
        (b'{"model": "' + b"m" * 2**20 + b'"}', 413, "at most 1048576 bytes"),
    ],
    ids=["empty", "null", "list", "cut", "text", "no UTF-8", "surrogate", "NaN", "1e400", "deep", "huge"],
)
def test_what_is_no_request_is_json_that_says_so(
    planner: httpx.Client, body: bytes, status: int, said: str
) -> None:
    answer = planner.post("/v1/chat/completions", content=body)
    assert answer.status_code == status
    told = shape(answer)
    assert told["type"] == "invalid_request_error"
    assert told["param"] is None
    assert said in str(told["message"])


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("model", "", "model"),
        ("model", None, "model"),
        ("messages", [], "messages"),
        ("messages", "hello", "messages"),
        ("messages", [{"content": "x"}], "messages[0]"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("stream", "yes", "stream"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 10**18, "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
        ("tools", ["f"], "tools[0]"),
        ("tool_choice", 5, "tool_choice"),
        ("tool_choice", "required", "tool_choice"),
        ("tool_choice", {"type": "function"}, "tool_choice"),
        ("tool_choice", {"type": "function", "function": "f"}, "tool_choice"),
    ],
)
def test_a_field_of_another_kind_is_named(planner: httpx.Client, name: str, value: Any, param: str) -> None:
    answer = ask(planner, **{name: value})
    assert (answer.status_code, shape(answer)["param"]) == (400, param)


def test_tools_of_another_kind_call_nothing(planner: httpx.Client) -> None:
    for tool in ({}, {"type": "function"}, {"function": "f"}, {"function": {"name": 5}}):
        answer = ask(planner, tools=[tool], tool_choice="required")
        assert (answer.status_code, shape(answer)["param"]) == (400, "tool_choice")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_json_is_json_whatever_it_is_called(planner: httpx.Client, content_type: str) -> None:
    body = json.dumps(QUESTION)
    answer = planner.post("/v1/chat/completions", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/completions", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),  # and no redirection to another host's name
        ("GET", "/" + "a" * 5000, 404, "unknown_url"),
        ("GET", "/assets/none", 404, None),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, None),
        ("OPTIONS", "/v1/chat/completions", 405, None),
        ("DELETE", "/v1/models", 405, None),
    ],
)
def test_what_is_not_there_is_json(
    planner: httpx.Client, method: str, path: str, status: int, code: str | None
) -> None:
    answer = planner.request(method, path)
    assert answer.status_code == status
    told = shape(answer)
    assert (told["type"], told["code"]) == ("invalid_request_error", code)
    assert len(answer.content) < 600
    assert ("/v1/chat/completions" in str(told["message"])) or code != "unknown_url"
    assert ("Allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 200), ("/v1/chat/completions", 405), ("/x", 404)]
)
def test_a_head_has_no_body(planner: httpx.Client, path: str, status: int) -> None:
    answer = planner.head(path)
    assert (answer.status_code, answer.content) == (status, b"")
    assert planner.get("/v1/models").status_code == 200  # over the same connection
