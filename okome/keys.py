"""Keys: canonical, versioned, of the whole request, and in one hash slot per namespace.

The namespace is the hash tag (the part in braces), so that a script or an MGET never spans two slots of a
Redis Cluster. Spread load over a cluster by namespaces.
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from okome import acl
from okome.arguments import names_of, require_name

VERSION = 2
"""Of the canonical form below. Raise it when the same request would hash differently, or two that hashed alike no
longer should."""

NOT_IN_KEY = frozenset({"user", "safety_identifier", "metadata", "store", "prompt_cache_key"})
"""Top-level fields of an OpenAI-style request that can't change the answer. Everything else is in the key:
an allow-list of parameters is how a well-known proxy came to serve wrong answers."""

SCHEMAS = frozenset({"schema", "parameters", "input_schema", "guided_json", "json", "properties"})
"""Fields that hold a JSON schema, wherever they stand: `response_format`, tools, those of vLLM, llama.cpp and
Ollama. Inside, every order counts: a model generates the properties in the order of the schema, and a tool's
parameters stand in the prompt as they were sent."""

_LAYOUT = 1  # of the names in Redis, which the ledger's counters share
_NAMES = 4096  # of keys whose digests are kept
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def key_of(request: Mapping[str, Any], *, tenant: str, ignore: Collection[str] = NOT_IN_KEY) -> str:
    """The key of a JSON-like request: the same for any order of fields outside of SCHEMAS, another for any other
    difference.

    1, 1.0, true and "1" are four different values. Raises TypeError for what JSON can't carry and for a tenant that is
    no text, ValueError for NaN, infinities and an empty tenant. The key is a digest: it tells nothing about the
    request.

    Takes some 3 ms per MB of text. Give a large request to `asyncio.to_thread`, and the event loop goes on.
    """
    require_name("tenant", tenant)
    if not isinstance(request, Mapping):
        raise TypeError(f"request is a mapping of fields, not {type(request).__name__}")
    if ignore is not NOT_IN_KEY:
        ignore = frozenset(
            names_of("ignore", ignore)
        )  # or every field that is a part of one text would be left out
    kept = {name: value for name, value in request.items() if name not in ignore}
    schemas: list[Mapping[str, Any]] = []
    try:
        _require_json(kept, schemas)
        canonical = _SORTED.encode([VERSION, tenant, kept])
        # Where they stand is in the canonical form already, so that their own order is all that is left to tell.
        canonical += _AS_IT_IS.encode(schemas)
    except UnicodeEncodeError:
        raise ValueError(
            "the request holds half of a surrogate pair, which has no canonical form in a key"
        ) from None
    except RecursionError:
        raise ValueError("the request is nested too deeply for a key") from None
    return f"v{VERSION}-{hashlib.blake2b(canonical, digest_size=20).hexdigest()}"


def is_deterministic(request: Mapping[str, Any]) -> bool:
    """Whether the same request gives the same answer: temperature 0, and nothing that looks at the world.

    A seed is none: OpenAI's reference calls it a best effort that guarantees nothing. Tools of type function or
    custom are the caller's to carry out: that a model asks for one depends on the request alone. All others
    (web_search, file_search, code_interpreter, mcp ...) are carried out while it answers, and find another world
    each time.
    """
    if not isinstance(request, Mapping):
        raise TypeError(f"request is a mapping of fields, not {type(request).__name__}")
    temperature = request.get("temperature")
    if isinstance(temperature, bool) or temperature != 0:
        return False
    if any(request.get(name) is not None for name in _LOOKING):
        return False
    tools = request.get("tools") or ()
    return isinstance(tools, list | tuple) and all(
        isinstance(tool, Mapping) and tool.get("type") in _CALLERS_TOOLS for tool in tools
    )


_CALLERS_TOOLS = ("function", "custom")
_LOOKING = ("web_search_options", "plugins", "data_sources")  # OpenAI's, OpenRouter's, Azure's
_SCALARS = {type(None), bool, int, str}


def _require_json(value: object, schemas: list[Mapping[str, Any]] | None) -> None:
    """`schemas`: those found are added, in canonical order; None inside of one."""
    kind = type(value)
    if kind in _SCALARS:
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the request holds {value}, which has no canonical form in a key")
    elif isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a field of a request is named by text, not by {type(name).__name__}")
        for name in sorted(value):
            item = value[name]
            if schemas is not None and name in SCHEMAS and isinstance(item, Mapping):
                schemas.append(item)
                _require_json(item, None)
            else:
                _require_json(item, schemas)
    elif isinstance(value, list | tuple):
        if not set(map(type, value)) <= _SCALARS:  # a prompt of a million tokens is one step
            for item in value:
                _require_json(item, schemas)
    elif not isinstance(value, int | str):
        raise TypeError(f"the request holds a {kind.__name__}, which has no canonical form in a key")


def _as_json(value: object) -> object:
    """What msgspec knows of what is of a class derived from it, or a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return str.__str__(value)  # whatever its own __str__ says
    return int(value) if isinstance(value, int) else float(value)  # type: ignore[arg-type]  # nothing else comes here


_SORTED = msgspec.json.Encoder(order="sorted", enc_hook=_as_json)
_AS_IT_IS = msgspec.json.Encoder(enc_hook=_as_json)


def digest(text: str) -> str:
    """32 hex digits: names of users, tags and keys are unbounded and private, key names should be neither."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def value_name(key: str) -> str:
    """What a key's value is stored under. Raises as require_name."""
    return _named("value:", key)


def stream_name(key: str) -> str:
    """Likewise its stream: the same key may have both."""
    return _named("stream:", key)


def _named(kind: str, key: str) -> str:
    try:
        return _digest_of(kind, key)
    except TypeError:  # a key that can't be looked up, such as a list
        require_name("key", key)
        raise


@lru_cache(2 * _NAMES)
def _digest_of(kind: str, key: str) -> str:
    require_name("key", key)
    return digest(kind + key)


class Keyspace:
    """The names of one namespace: acl.PREFIX, what it is for, the namespace as hash tag, kind, digest."""

    def __init__(self, purpose: str, namespace: str) -> None:
        require_name("namespace", namespace)
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"a namespace is 1 to 64 letters, digits, '_', '.' and '-', not {namespace!r}")
        self._stem = f"{acl.PREFIX}{purpose}{_LAYOUT}:{{{namespace}}}:"

    def __call__(self, kind: str, name: str = "") -> str:
        return f"{self._stem}{kind}:{name}" if name else self._stem + kind
