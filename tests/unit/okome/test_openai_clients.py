"""The planner as OpenAI's own client, litellm and langchain-openai see it: the planner's own process, a real Redis."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from bench.litellm_proxy import environment
from bench.redis_server import RedisServer
from tests.unit.okome.test_planner import eventually, running

ROOT = Path(__file__).parents[3]
ASKED: dict[str, Any] = {
    "model": "rice-7b",
    "messages": [{"role": "user", "content": "how many grains"}],
    "temperature": 0,
    "max_completion_tokens": 5,
}
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("clients")
    options = ("--tokens-per-second", "1000", "--tokens-per-day", "200", "--requests-per-minute", "12")
    with RedisServer() as server, running(server.url, folder, *options) as planner:
        yield f"{planner.base_url}/v1".replace("//v1", "/v1")


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key=secrets.token_hex(8), max_retries=0, timeout=60) as client:
        yield client


def test_an_answer_has_a_new_id_each_time_and_a_hit_the_rate_headers(client: OpenAI) -> None:
    first = client.chat.completions.with_raw_response.create(**ASKED)
    answer = first.parse()
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    ids = {answer.id}

    def again() -> str | None:
        hit = client.chat.completions.with_raw_response.create(**ASKED)
        ids.add(hit.parse().id)
        for name in ("limit", "remaining"):
            name = f"x-ratelimit-{name}-tokens"
            assert hit.headers[name] == first.headers[name]
        assert "x-ratelimit-reset-tokens" in hit.headers
        return hit.headers.get("X-OKOME-Cache")

    eventually(again, "HIT")
    assert again() == "HIT"
    assert len(ids) >= 3


def test_null_and_absent_are_the_same_and_the_older_name_counts(client: OpenAI) -> None:
    nulls: dict[str, Any] = {
        "stop": None,
        "tools": None,
        "n": None,
        "stream_options": None,
        "tool_choice": None,
    }
    create = client.chat.completions.with_raw_response.create
    create(**ASKED, **nulls, max_tokens=None)
    eventually(lambda: create(**ASKED).headers["X-OKOME-Cache"], "HIT")
    older = {name: value for name, value in ASKED.items() if name != "max_completion_tokens"}
    answer = client.chat.completions.create(**older, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_parts_of_text_are_read_and_an_image_is_named(client: OpenAI) -> None:
    text = {"type": "text", "text": "how many grains"}
    asked = {**ASKED, "messages": [{"role": "user", "content": [text]}]}
    answer = client.chat.completions.create(**asked)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(openai.BadRequestError, match="image_url") as refused:
        client.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": [text, image]}]})
    assert (refused.value.param, refused.value.type) == ("messages[0].content", "invalid_request_error")


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_begins_with_the_role_and_ends_with_the_usage(client: OpenAI, include_usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(client.chat.completions.create(**ASKED, **options, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len("".join(c.choices[0].delta.content or "" for c in chunks if c.choices).split()) == 5
    told = [chunk.usage.total_tokens for chunk in chunks if chunk.usage is not None]
    assert told == ([8] if include_usage else [])
    assert (chunks[-1].choices == []) is include_usage


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_history_is_taken(client: OpenAI, stream: bool) -> None:
    wanted: dict[str, Any] = {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weigh"}},
    }
    if stream:
        chunks = list(client.chat.completions.create(**ASKED, **wanted, stream=True))
        (streamed,) = chunks[0].choices[0].delta.tool_calls or []
        assert (streamed.index, streamed.function and streamed.function.name) == (0, "weigh")
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        return
    choice = client.chat.completions.create(**ASKED, **wanted).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or []
    history = [
        *ASKED["messages"],
        choice.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "3 g"},
    ]
    assert client.chat.completions.create(**{**ASKED, "messages": history}).choices[0].message.content


def test_several_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASKED, n=3)
    assert answer.usage is not None
    assert ([choice.index for choice in answer.choices], answer.usage.completion_tokens) == ([0, 1, 2], 15)
    chunks = list(client.chat.completions.create(**ASKED, n=3, stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}


SCHEMA = {"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "string"}}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def test_what_the_planner_does_not_know_is_taken_and_another_question(client: OpenAI) -> None:
    create = client.chat.completions.with_raw_response.create
    create(**ASKED, user=None)  # type: ignore[call-overload]  # as absent
    eventually(lambda: create(**ASKED).headers["X-OKOME-Cache"], "HIT")
    options: list[dict[str, Any]] = [
        {"functions": [{"name": "weigh", "parameters": SCHEMA}], "function_call": "auto"},
        {"response_format": JSON_SCHEMA},
        {"logprobs": True, "top_logprobs": 2},
        {"stop": ["steam"]},
        {"seed": 7},
        {"extra_body": {"guided_regex": "[a-z]+"}},
    ]
    for option in options:
        answer = create(**ASKED, **option)
        assert answer.headers["X-OKOME-Cache"] == "MISS"
        assert answer.parse().choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"n": 0}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_asked_is_an_error_of_the_client(
    client: OpenAI, wrong: dict[str, Any], param: str, stream: bool
) -> None:
    """Before anything of a stream is out."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**ASKED, **wrong, "stream": stream})
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


def test_completions_and_embeddings_are_not_found(client: OpenAI) -> None:
    for ask in (
        lambda: client.completions.create(model="rice-7b", prompt="how many grains"),
        lambda: client.embeddings.create(model="rice-7b", input="how many grains"),
        lambda: client.responses.create(model="rice-7b", input="how many grains"),
    ):
        with pytest.raises(openai.NotFoundError, match="is not served here") as refused:
            ask()
        assert refused.value.code == "unknown_url"


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("none")
    assert refused.value.code == "model_not_found"


def ask_often(client: OpenAI) -> None:
    for _ in range(13):
        client.chat.completions.create(**{**ASKED, "max_completion_tokens": 1, "temperature": 1})


def test_a_used_up_cap_is_told_apart_from_a_rate(client: OpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="tokens-per-day") as cap:
        client.chat.completions.create(**{**ASKED, "max_completion_tokens": 4000})
    assert (cap.value.code, cap.value.type) == ("insufficient_quota", "insufficient_quota")
    assert cap.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.RateLimitError, match="requests-per-minute") as rate:
        ask_often(client)
    assert (rate.value.code, rate.value.type) == ("rate_limit_exceeded", "requests")
    assert int(rate.value.response.headers["Retry-After"]) <= 60


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/none", 404), ("GET", "/chat/completions", 405), ("POST", "/embeddings", 404)],
)
def test_what_is_not_served_is_json(client: OpenAI, method: str, path: str, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.request(str, openai._models.FinalRequestOptions(method=method, url=path))
    assert refused.value.status_code == status
    assert set(refused.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_what_is_wrong_is_named(client: OpenAI) -> None:
    for name, value in {"max_completion_tokens": "many", "n": 0, "model": 7}.items():
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{**ASKED, name: value})
        assert refused.value.param == name


def seen(client: str, url: str) -> dict[str, Any]:
    """By a program of tests/clients, in an environment of its own."""
    done = subprocess.run(
        [environment() / "bin/python", ROOT / "tests" / "clients" / f"{client}.py", url],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_litellm(url: str) -> None:
    said = seen("with_litellm", url)
    assert len(said["plain"].split()) == 5
    assert said["streamed"].strip() == said["plain"]
    assert (said["usage"], said["stream_usage"]) == (8, [8])
    assert said["image"] == ["BadRequestError", 400]
    assert said["over"] == ["RateLimitError", 429]
    assert said["none"] == ["BadRequestError", 400]
    assert said["indices"] == [0, 1]
    assert len(said["formatted"].split()) == 5


def test_langchain(url: str) -> None:
    said = seen("with_langchain", url)
    assert len(said["plain"].split()) == 5
    assert said["streamed"].strip() == said["plain"]
    assert said["usage"] == sum(said["stream_usage"]) == 8
    assert said["called"] == ["weigh"]
    assert len(said["parts"].split()) == 5
    assert said["after_tool"]
    assert len(said["formatted"].split()) == 5
    assert len(said["choices"]) == 2
