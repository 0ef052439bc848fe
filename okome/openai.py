"""The shapes of OpenAI's chat completions, as far as the example planner knows them."""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

MAX_TOKENS = 4096  # of an answer
DEFAULT_TOKENS = 64
DONE = b"data: [DONE]\n\n"


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class ChatRequest(msgspec.Struct, frozen=True):
    """The fields that the planner itself looks at; all others are in the cache key all the same."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool = False
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)] = DEFAULT_TOKENS

    @property
    def prompt_tokens(self) -> int:
        return sum(len(message.content.split()) for message in self.messages)


def frame(chat: ChatRequest, kind: str) -> dict[str, Any]:
    """What an answer, or each event of one, begins with. `kind`: chat.completion or chat.completion.chunk."""
    identity = hashlib.blake2b(msgspec.json.encode(chat), digest_size=12).hexdigest()
    return {
        "id": f"chatcmpl-{identity}",
        "object": kind,
        "created": int(time.time()),
        "model": chat.model,
    }


def completion(chat: ChatRequest, tokens: Sequence[str]) -> bytes:
    """A whole answer."""
    return msgspec.json.encode(
        {
            **frame(chat, "chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(tokens).rstrip()},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": chat.prompt_tokens,
                "completion_tokens": len(tokens),
                "total_tokens": chat.prompt_tokens + len(tokens),
            },
        }
    )


def event(frame: Mapping[str, Any], token: str | None) -> bytes:
    """One event of a stream; None: that there are no more tokens, which DONE follows."""
    delta = {} if token is None else {"content": token}
    finished = "stop" if token is None else None
    choice = {"index": 0, "delta": delta, "finish_reason": finished}
    return b"data: " + msgspec.json.encode({**frame, "choices": [choice]}) + b"\n\n"


def is_complete(chunks: Sequence[bytes]) -> bool:
    """Whether these are all events of an answer, wherever they were cut into chunks: a generation that breaks
    off ends its stream as quietly as one that is done, but for the last event.
    """
    return b"".join(chunks).endswith(DONE)


class _Content(msgspec.Struct):
    """Of an answer's message or an event's delta: what there may be of it. `refusal` is an answer, too."""

    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None

    def __bool__(self) -> bool:
        return bool(self.content or self.refusal or self.tool_calls or self.function_call)


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Content = msgspec.field(default_factory=_Content)
    delta: _Content = msgspec.field(default_factory=_Content)
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


_CHOICES = msgspec.json.Decoder(_Choices)
_FINISHED = ("stop", "tool_calls", "function_call")  # not length, content_filter or an error


def is_worth_keeping(answer: bytes) -> bool:
    """Whether each choice of an answer says something and has come to its own end: not truncated, not filtered."""
    return _worth_keeping([answer])


def is_stream_worth_keeping(chunks: Sequence[bytes]) -> bool:
    """Likewise for all events of a stream, the last one included."""
    stream = b"".join(chunks)
    events = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")]
    return is_complete(chunks) and _worth_keeping(event for event in events if event.startswith(b"{"))


def _worth_keeping(parts: Iterable[bytes]) -> bool:
    finished: dict[int, str | None] = {}
    said: set[int] = set()
    for part in parts:
        try:
            choices = _CHOICES.decode(part).choices
        except msgspec.MsgspecError:
            return False
        for choice in choices:
            finished[choice.index] = choice.finish_reason or finished.get(choice.index)
            if choice.message or choice.delta:
                said.add(choice.index)
    return bool(finished) and said == finished.keys() and all(how in _FINISHED for how in finished.values())


def error(status: int, text: str) -> dict[str, Any]:
    kind = {429: "rate_limit_exceeded"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": text, "type": kind}}
