"""The shapes of OpenAI's chat completions, as far as the planner knows them: what is asked, answered and refused.

Answers are kept without an id, for each time that one is delivered it gets a new one: `delivered`, `shown`.
"""

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from okome.errors import OkomeError

DEFAULT_TOKENS = 64  # of an answer whose request names no limit: what is reserved
DONE = b"data: [DONE]\n\n"
_EVENT = b"data: {"
_USAGE = b'data: {"usage":'  # what the event that tells the usage begins with, as it is kept
_CHARACTERS = 4  # of a token, about

Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]  # of tokens: times `n` it is an amount still


class Part(msgspec.Struct, frozen=True):
    """Of a message's content. `type`: text, image_url, input_audio, file, refusal."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """`content` is null where an assistant called tools, whose answers follow as messages of role tool."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text or "" for part in self.content)
        return self.content or ""


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """The fields that the planner itself looks at; all others are in the cache key and go upstream all the same.
    What is null is as if it were absent.
    """

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stream_options: StreamOptions | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def output_tokens(self) -> int:
        """At most, of each choice. max_tokens is the older name."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS

    @property
    def prompt_tokens(self) -> int:
        """About: at least one for each word and each four characters."""
        return sum(
            max(len(text.split()), len(text) // _CHARACTERS)
            for text in (message.text for message in self.messages)
        )

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def significant(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request decides what is kept: nulls are as absent, and whether a stream's usage is shown is decided
    when it is delivered.

    >>> significant({"model": "m", "stop": None, "stream_options": {"include_usage": True}})
    {'model': 'm'}
    """
    kept = {name: value for name, value in asked.items() if value is not None}
    options = kept.pop("stream_options", None)
    if isinstance(options, Mapping):
        others = {name: value for name, value in options.items() if name != "include_usage"}
        if others:
            kept["stream_options"] = others
    return kept


class ApiError(OkomeError):
    """What a client is told instead of an answer. `kind`, `param` and `code` as in OpenAI's errors; by default the kind
    follows from the status. `headers`: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.param, self.code = param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        said = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": said}

    def event(self) -> bytes:
        """For a stream that has begun: the status is out already."""
        return b"data: " + msgspec.json.encode(self.body) + b"\n\n"


_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def invalid(error: Exception) -> ApiError:
    """400 from what decoding said, which names where as JSON path."""
    text = str(error)
    found = _AT.search(text)
    if found is None:
        missing = re.search(r"required field `(\w+)`", text)
        return ApiError(400, text, param=missing and missing[1])
    path = found["path"]
    return ApiError(
        400, text, param=None if "..." in path else path or None
    )  # it does not know where in a dict


def frame(chat: ChatRequest, kind: str) -> dict[str, Any]:
    """What an answer, or each event of one, begins with. `kind`: chat.completion or chat.completion.chunk."""
    return {"object": kind, "created": int(time.time()), "model": chat.model}


def usage(chat: ChatRequest, tokens: int) -> dict[str, int]:
    """`tokens`: of all choices together."""
    prompt = chat.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def completion(chat: ChatRequest, message: Mapping[str, Any], reason: str, tokens: int) -> bytes:
    """A whole answer whose choices are all the same."""
    said = {"role": "assistant", **message}
    choices = [{"index": n, "message": said, "finish_reason": reason} for n in range(chat.choices)]
    return msgspec.json.encode(
        {**frame(chat, "chat.completion"), "choices": choices, "usage": usage(chat, tokens)}
    )


def event(begin: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None, choices: int) -> bytes:
    """What each choice goes on with; with a reason, its end."""
    return b"".join(
        encoded({**begin, "choices": [{"index": n, "delta": delta, "finish_reason": reason}]})
        for n in range(choices)
    )


def usage_event(begin: Mapping[str, Any], usage: Mapping[str, Any]) -> bytes:
    """The last before DONE: always kept, and shown to those who ask for it by stream_options."""
    return encoded({"usage": usage, **begin, "choices": []})


def encoded(event: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _new_id() -> bytes:
    return b'"id":"chatcmpl-%024x",' % random.getrandbits(96)  # no secret


def delivered(kept: bytes) -> bytes:
    """A whole answer, with an id of its own."""
    return b"{" + _new_id() + kept[1:]


class Delivery:
    """A stream as one client gets it: with an id of its own, and the usage if asked for."""

    def __init__(self, include_usage: bool) -> None:
        self._usage = include_usage
        self._begin = _EVENT + _new_id()
        self._without = self._begin + (b'"usage":null,' if include_usage else b"")

    def shown(self, kept: bytes) -> bytes:
        return b"".join(self._shown(kept))

    def _shown(self, kept: bytes) -> Iterator[bytes]:
        for event in kept.split(b"\n\n"):
            if event.startswith(_USAGE):
                if self._usage:
                    yield self._begin + event[len(_EVENT) :] + b"\n\n"
            elif event.startswith(_EVENT):
                yield self._without + event[len(_EVENT) :] + b"\n\n"
            elif event:
                yield event + b"\n\n"


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
