"""The planner in front of an OpenAI-compatible server: of another planner, and of one that sends what others do."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from bench.redis_server import RedisServer
from okome.planner import main
from okome.upstream import Upstream
from tests.unit.okome.test_planner import QUESTION, ask, eventually, metric, running, without_ids

KEY = "sk-of-the-upstream"


class Foreign:
    """A server that sends what it is told to: what vLLM, llama.cpp and Ollama do and a planner does not."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", {"Content-Type": "application/json"}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.silent = threading.Event()
        self.silent.set()
        foreign = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                foreign.asked.append(json.loads(self.rfile.read(length)))
                self.do_GET()

            def do_GET(self) -> None:
                foreign.keys.append(self.headers["Authorization"])
                foreign.silent.wait(30)
                self.send_response(foreign.status)
                for name, value in foreign.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who asked has given up, as some tests have it
                    self.wfile.write(foreign.body)

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def streams(self, *events: str) -> None:
        self.status, self.headers = 200, {"Content-Type": "text/event-stream"}
        self.body = "".join(f"{event}\n\n" for event in events).encode(errors="surrogateescape")

    def answers(self, status: int, body: object, **headers: str) -> None:
        self.status, self.headers = status, {"Content-Type": "application/json", **headers}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.fixture(scope="module")
def _foreign() -> Iterator[Foreign]:
    foreign = Foreign()
    thread = threading.Thread(target=foreign.server.serve_forever)
    thread.start()
    yield foreign
    foreign.server.shutdown()
    foreign.server.server_close()
    thread.join(30)


@pytest.fixture(scope="module")
def _in_front(_foreign: Foreign, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("in-front")
    key = folder / "key"
    key.write_text(KEY + "\n")
    options = ("--upstream", _foreign.url, "--upstream-key-file", str(key), "--upstream-timeout", "2")
    with RedisServer() as server, running(server.url, folder, *options) as client:
        yield client


@pytest.fixture
def foreign(_foreign: Foreign) -> Foreign:
    _foreign.asked.clear()
    _foreign.keys.clear()
    return _foreign


@pytest.fixture
def in_front(_in_front: httpx.Client, request: pytest.FixtureRequest) -> httpx.Client:
    """Each test has an API key, and so a cache and a budget, of its own."""
    _in_front.headers["Authorization"] = f"Bearer {request.node.name.encode().hex()}"
    return _in_front


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A planner, and one whose upstream it is."""
    a, b = tmp_path_factory.mktemp("front"), tmp_path_factory.mktemp("behind")
    with (
        RedisServer() as one,
        RedisServer() as other,
        running(other.url, b, "--tokens-per-second", "1000") as behind,
        running(one.url, a, "--upstream", f"{behind.base_url}/v1".replace("//v1", "/v1")) as front,
    ):
        yield front, behind


def test_an_answer_comes_from_upstream_once_and_costs_its_usage(
    two: tuple[httpx.Client, httpx.Client],
) -> None:
    front, behind = two
    first = ask(front)
    assert (first.status_code, first.headers["X-OKOME-Cache"]) == (200, "MISS")
    assert first.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert first.json()["choices"] == ask(behind).json()["choices"]
    eventually(lambda: ask(front).headers["X-OKOME-Cache"], "HIT")
    assert metric(front, "okome_gpu", "requests") == 1


@pytest.mark.parametrize("usage", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_is_passed_on_and_replayed_and_its_usage_shown_to_who_asks(
    two: tuple[httpx.Client, httpx.Client], usage: object
) -> None:
    front, behind = two
    asked: dict[str, Any] = {"stream": True, "stream_options": usage, "max_tokens": 4}
    first = ask(front, **asked)
    assert without_ids(first.text) == without_ids(ask(behind, **asked).text)
    assert first.text.endswith("data: [DONE]\n\n")
    assert ('"total_tokens":7' in first.text) is (usage == {"include_usage": True})
    eventually(lambda: ask(front, **asked).headers["X-OKOME-Cache"], "HIT")
    assert without_ids(ask(front, **asked).text) == without_ids(first.text)


def test_more_tokens_than_can_be_counted_are_refused_before_anybody_is_asked(
    foreign: Foreign, in_front: httpx.Client
) -> None:
    answer = ask(in_front, max_tokens=2**53)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"
    assert not foreign.asked


CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}


def chunk(delta: dict[str, str], reason: str | None = None, **more: object) -> str:
    return "data: " + json.dumps(
        {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}
    )


@pytest.mark.parametrize(
    "events",
    [
        [
            chunk({"content": "a\u2028b"}),
            chunk({}, "stop"),
            "data: " + json.dumps({**CHUNK, "choices": [], "usage": USAGE}),
        ],
        [chunk({"content": "a\u2028b"}), chunk({}, "stop", usage=USAGE, timings={"predicted_n": 2})],
        [
            chunk({"content": "a\u2028b"}, usage={"total_tokens": 12}),
            ": ping",
            chunk({}, "stop", usage=USAGE),
        ],
    ],
    ids=["of its own", "with the last choice", "with each choice"],
)
def test_usage_is_found_wherever_it_comes(
    foreign: Foreign, in_front: httpx.Client, events: list[str]
) -> None:
    foreign.streams(*events, "data: [DONE]")
    hidden = ask(in_front, stream=True)
    shown = ask(in_front, stream=True, stream_options={"include_usage": True})
    assert foreign.asked[0]["stream_options"] == {"include_usage": True}
    assert "total_tokens" not in hidden.text
    *said, usage, done = [line.removeprefix("data: ") for line in shown.text.strip().split("\n\n")]
    assert done == "[DONE]"
    assert (json.loads(usage)["choices"], json.loads(usage)["usage"]) == ([], USAGE)
    assert [json.loads(event)["usage"] for event in said] == [None, None]
    assert json.loads(said[0])["choices"][0]["delta"]["content"] == "a\u2028b"


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_paid_is_what_the_upstream_says(
    foreign: Foreign, in_front: httpx.Client, stream: bool
) -> None:
    def left(total: int) -> int:
        usage = {**USAGE, "total_tokens": total}
        if stream:
            foreign.streams(chunk({"content": "a"}), chunk({}, "stop", usage=usage), "data: [DONE]")
        else:
            said = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
            foreign.answers(200, {"choices": [said], "usage": usage})
        answer = ask(in_front, {"Cache-Control": "no-store"}, stream=stream)
        return int(answer.headers["x-ratelimit-remaining-tokens"])

    whole = left(1001)  # which what was estimated does not add up to
    eventually(lambda: left(0), whole - 1001)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            {"error": {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}},
            {"message": "too long", "type": "BadRequestError", "param": "messages", "code": None},
        ),
        (
            {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
            {"message": "too long", "type": "BadRequestError", "param": None, "code": None},
        ),
        (
            {"error": {"code": 400, "message": f"not {KEY}", "type": "invalid_request_error"}},
            {"message": "not ***", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (
            {"error": "model is required"},
            {"message": "model is required", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (
            b'{"error": {"message": "\xff"}}',
            {
                "message": "the upstream answered 400",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
        ),
        (
            b"<html>",
            {
                "message": "the upstream answered 400",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
        ),
    ],
    ids=["vLLM", "older vLLM", "llama.cpp", "text", "no UTF-8", "HTML"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_its_errors_are_passed_on_in_one_shape(
    foreign: Foreign, in_front: httpx.Client, said: object, told: object, stream: bool
) -> None:
    foreign.answers(400, said)
    answer = ask(in_front, stream=stream)
    assert (answer.status_code, answer.json()) == (400, {"error": told})
    assert foreign.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found"}),
        (422, {"message": "no", "type": "invalid_request_error", "code": None}),
        (429, {"message": "no more", "type": "insufficient_quota", "code": "insufficient_quota"}),
        (500, {"message": "out of memory", "type": "server_error", "code": "internal"}),
        (503, {"message": "loading", "type": "server_error", "code": None}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_it_means_is_passed_on(
    foreign: Foreign, in_front: httpx.Client, status: int, error: dict[str, object], stream: bool
) -> None:
    foreign.answers(status, {"error": {**error, "param": "model"}})
    answer = ask(in_front, stream=stream)
    assert (answer.status_code, answer.json()) == (status, {"error": {**error, "param": "model"}})


@pytest.mark.parametrize("stream", [False, True])
def test_it_hears_what_was_asked_word_for_word(
    foreign: Foreign, in_front: httpx.Client, stream: bool
) -> None:
    """The older functions, what the planner does not know, nulls: all of it is the server's to understand."""
    foreign.streams(chunk({"content": "a"}, "stop"), "data: [DONE]")
    schema = {"type": "object", "properties": {"reason": {}, "answer": {}}}
    asked: dict[str, Any] = {
        "functions": [{"name": "f", "parameters": schema}],
        "function_call": {"name": "f"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"50256": -100},
        "stop": ["a", "b"],
        "seed": 7,
        "user": None,
        "n": 2,
        "top_p": 0.5,
        "guided_regex": "[a-z]+",
    }
    ask(in_front, stream=stream, **asked)
    (heard,) = foreign.asked
    assert heard == {**QUESTION, **asked, "stream": stream} | (
        {"stream_options": {"include_usage": True}} if stream else {}
    )
    assert list(heard["functions"][0]["parameters"]["properties"]) == ["reason", "answer"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_that_ends_amid_an_answer_is_no_answer(
    foreign: Foreign, in_front: httpx.Client, stream: bool
) -> None:
    if stream:
        foreign.streams(chunk({"content": "a"}))
    else:
        foreign.answers(200, {"choices": []})
    foreign.headers["Content-Length"] = "100000"
    for _ in range(2):
        answer = ask(in_front, stream=stream)
        if stream:
            *_, last = answer.text.strip().split("\n\n")
            told = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 502
            told = answer.json()["error"]
        assert told["code"] == "upstream_unreachable"
    assert len(foreign.asked) == 2  # nothing was kept


@pytest.mark.parametrize("said", [{"data": None}, {"data": ["m"]}, {"data": "m"}, {}])
def test_models_that_are_none_are_left_out(foreign: Foreign, in_front: httpx.Client, said: object) -> None:
    foreign.answers(200, said)
    assert in_front.get("/v1/models").json() == {"object": "list", "data": []}
    gone = in_front.get("/v1/models/m")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


def test_its_429_says_when(foreign: Foreign, in_front: httpx.Client) -> None:
    foreign.answers(429, {"error": {"message": "slow"}}, **{"Retry-After": "7"})
    answer = ask(in_front)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": {"message": f"{KEY} is wrong"}}, "upstream_auth"),
        (200, b"<html>", "upstream_unexpected"),
        (200, b'{"x":' * 100_000, "upstream_unexpected"),
        (200, b'{"choices": [{"message": {"content": "\xff"}}]}', "upstream_unexpected"),
        (200, b"", "upstream_unexpected"),
        (200, [], "upstream_unexpected"),
        (204, b"", "upstream_unexpected"),
        (307, b"", "upstream_unexpected"),
    ],
)
def test_what_no_client_can_mend_is_502(
    foreign: Foreign, in_front: httpx.Client, status: int, body: object, code: str
) -> None:
    foreign.answers(status, body)
    answer = ask(in_front)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, code)
    assert KEY not in answer.text


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ([], "the upstream's stream broke off"),
        (['data: {"error": {"message": "out of memory", "code": 500}}', "data: [DONE]"], "out of memory"),
        (['error: {"message": "out of memory", "code": 500}'], "out of memory"),
        (["data: hello"], "the upstream's answer can't be understood"),
        (['data: {"choices": ["\udcff"]}'], "the upstream's answer can't be understood"),
    ],
)
def test_an_error_amid_a_stream_is_an_event_and_nothing_is_kept(
    foreign: Foreign, in_front: httpx.Client, end: list[str], message: str
) -> None:
    foreign.streams(chunk({"content": "a"}), *end)
    for _ in range(2):
        answer = ask(in_front, stream=True)
        *_, last = answer.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == message
    assert len(foreign.asked) == 2


def test_openais_client_raises_what_it_means(foreign: Foreign, in_front: httpx.Client) -> None:
    key = in_front.headers["Authorization"].removeprefix("Bearer ")
    with OpenAI(
        base_url=f"{in_front.base_url}/v1".replace("//v1", "/v1"), api_key=key, max_retries=0, timeout=60
    ) as client:
        create: Any = client.chat.completions.create
        quota = {"message": "no more", "type": "insufficient_quota", "code": "insufficient_quota"}
        for status, error, kind, code in (
            (400, {"message": "too long", "param": "messages"}, openai.BadRequestError, None),
            (401, {"message": "who"}, openai.InternalServerError, "upstream_auth"),
            (404, {"message": "no", "code": "model_not_found"}, openai.NotFoundError, "model_not_found"),
            (429, quota, openai.RateLimitError, "insufficient_quota"),
            (500, {"message": "down"}, openai.InternalServerError, None),
        ):
            foreign.answers(status, {"error": error})
            for stream in (False, True):
                with pytest.raises(kind) as refused:
                    create(**QUESTION, stream=stream)
                assert refused.value.code == code
        foreign.streams(chunk({"content": "so far"}))
        answer = create(**QUESTION, stream=True)
        assert next(answer).choices[0].delta.content == "so far"
        with pytest.raises(openai.APIError, match="broke off") as broken:
            next(answer)
        assert broken.value.code == "upstream_broke_off"


def test_silence_is_504(foreign: Foreign, in_front: httpx.Client) -> None:
    foreign.silent.clear()
    try:
        answer = ask(in_front)
    finally:
        foreign.silent.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://user:s3cret@host", "http://[::1"]
)
def test_a_url_that_is_none_is_refused_without_a_part_of_it(url: str) -> None:
    with pytest.raises(ValueError, match="upstream") as refused:
        Upstream(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("key", [b"", b" \n", b"sk-s3cr\nt", b"sk-s3cr\xfft", "sk-s3crét".encode()])
def test_a_key_that_is_none_is_refused_without_a_part_of_it(
    key: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_bytes(key)
    arguments = ["--upstream", "http://127.0.0.1:1", "--upstream-key-file", str(file)]
    assert main([*arguments, "--ledger", str(tmp_path / "ledger")]) == 2
    said = capsys.readouterr()
    assert "key" in said.err
    assert said.err.count("\n") == 1
    assert not any(part in said.out + said.err for part in ("s3cr", "0xff"))
