"""The shapes of OpenAI's API."""

import pytest

from okome.openai import DONE, is_complete


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
