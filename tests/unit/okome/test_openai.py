"""The shapes of OpenAI's API."""

from collections.abc import Mapping

import msgspec
import pytest

from okome.openai import DONE, is_complete, is_stream_worth_keeping, is_worth_keeping


@pytest.mark.parametrize(
    ("chunks", "complete"),
    [
        ([], False),
        ([b""], False),
        ([b"data: 1\n\n"], False),
        ([b"data: 1\n\n", DONE], True),
        ([b"data: 1\n\ndata: [DO", b"NE]\n", b"\n", b""], True),
        ([b"data: 1\n\n", DONE[:-1]], False),
        ([DONE, b"data: 1\n\n"], False),
    ],
)
def test_only_a_stream_with_its_last_event_is_complete(chunks: list[bytes], complete: bool) -> None:
    assert is_complete(chunks) is complete


def answer(*choices: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({"choices": [{"index": n, **choice} for n, choice in enumerate(choices)]})


def events(*deltas: tuple[dict[str, object], str | None]) -> list[bytes]:
    choices = [{"choices": [{"index": 0, "delta": delta, "finish_reason": how}]} for delta, how in deltas]
    return [*(b"data: " + msgspec.json.encode(choice) + b"\n\n" for choice in choices), DONE]


SAID = {"message": {"role": "assistant", "content": "forty-two"}}
CALLED = {"message": {"content": None, "tool_calls": [{"id": "c1"}]}}
REFUSED = {"message": {"content": None, "refusal": "no"}}
EMPTY = {"message": {"role": "assistant", "content": ""}}


@pytest.mark.parametrize(
    ("whole", "worth"),
    [
        (answer(SAID | {"finish_reason": "stop"}), True),
        (answer(CALLED | {"finish_reason": "tool_calls"}), True),
        (answer(REFUSED | {"finish_reason": "stop"}), True),
        (answer(SAID | {"finish_reason": "length"}), False),
        (answer(SAID | {"finish_reason": "content_filter"}), False),
        (answer(SAID | {"finish_reason": None}), False),
        (answer(SAID), False),
        (answer(EMPTY | {"finish_reason": "stop"}), False),
        (answer({"finish_reason": "stop"}), False),
        (answer(SAID | {"finish_reason": "stop"}, SAID | {"finish_reason": "stop"}), True),
        (answer(SAID | {"finish_reason": "stop"}, SAID | {"finish_reason": "length"}), False),
        (answer(SAID | {"finish_reason": "stop"}, EMPTY | {"finish_reason": "stop"}), False),
        (answer(), False),
        (b'{"error": {"message": "no"}}', False),
        (b"", False),
        (b"<html>", False),
    ],
)
def test_only_whole_answers_are_worth_keeping(whole: bytes, worth: bool) -> None:
    assert is_worth_keeping(whole) is worth


@pytest.mark.parametrize(
    ("chunks", "worth"),
    [
        (events(({"role": "assistant"}, None), ({"content": "42"}, None), ({}, "stop")), True),
        (events(({"content": "42"}, "stop")), True),
        (events(({"tool_calls": [{"index": 0}]}, None), ({}, "tool_calls")), True),
        (events(({"content": "42"}, None), ({}, "length")), False),
        (events(({"content": "42"}, None), ({}, "content_filter")), False),
        (events(({"content": "42"}, None)), False),
        (events(({"role": "assistant", "content": ""}, None), ({}, "stop")), False),
        (events(({"content": "42"}, "stop"))[:-1], False),
        ([b"".join(events(({"content": "4\n2"}, "stop")))], True),
        ([b'data: {"error": {"message": "no"}}\n\n', DONE], False),
        ([b"data: {\n\n", DONE], False),
        ([DONE], False),
        ([], False),
    ],
)
def test_only_whole_streams_are_worth_keeping(chunks: list[bytes], worth: bool) -> None:
    assert is_stream_worth_keeping(chunks) is worth
    cut = b"".join(chunks)
    assert is_stream_worth_keeping([cut[:7], cut[7:]]) is worth


def test_an_event_of_usage_and_a_comment_are_no_choice() -> None:
    """The first as stream_options wants it, the second as OpenRouter keeps a connection up."""
    usage = b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    *said, done = events(({"content": "42"}, None), ({}, "stop"))
    assert is_stream_worth_keeping([b": PROCESSING\n\n", *said, usage, done])
