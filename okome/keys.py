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

VERSION = 1
"""Of the canonical form below. Raise it when the same request would hash differently."""

NOT_IN_KEY = frozenset({"user", "safety_identifier", "metadata", "store", "prompt_cache_key"})
"""Top-level fields of an OpenAI-style request that can't change the answer. Everything else is in the key:
an allow-list of parameters is how a well-known proxy came to serve wrong answers."""

_NAMES = 4096  # of keys whose digests are kept
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def key_of(request: Mapping[str, Any], *, tenant: str, ignore: Collection[str] = NOT_IN_KEY) -> str:
    """The key of a JSON-like request: the same for any order of fields, another for any other difference.

    1, 1.0, true and "1" are four different values. Raises TypeError for what JSON can't carry, ValueError for
    NaN and infinities. The key is a digest: it tells nothing about the request.
    """
    kept = {name: value for name, value in request.items() if name not in ignore}
    _require_json(kept)
    canonical = msgspec.json.encode([VERSION, tenant, kept], order="sorted")
    return f"v{VERSION}-{hashlib.blake2b(canonical, digest_size=20).hexdigest()}"


def is_deterministic(request: Mapping[str, Any]) -> bool:
    """Whether the same request gives the same answer: temperature 0 or a fixed seed."""
    temperature, seed = request.get("temperature"), request.get("seed")
    return (temperature == 0 and temperature is not False) or (isinstance(seed, int) and seed is not True)


def _require_json(value: object) -> None:
    match value:
        case None | bool() | int() | str():
            return
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} has no canonical form in a key")
        case Mapping():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise TypeError(f"a field of a request is named by text, not by {type(name).__name__}")
                _require_json(item)
        case list() | tuple():
            for item in value:
                _require_json(item)
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical form in a key")


def digest(text: str) -> str:
    """32 hex digits: names of users, tags and keys are unbounded and private, key names should be neither."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(_NAMES)
def value_name(key: str) -> str:
    """What a key's value is stored under."""
    return digest("value:" + key)


@lru_cache(_NAMES)
def stream_name(key: str) -> str:
    """Likewise its stream: the same key may have both."""
    return digest("stream:" + key)


class Keyspace:
    """The names of one namespace: acl.PREFIX, what it is for, the namespace as hash tag, kind, digest."""

    def __init__(self, purpose: str, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"a namespace is 1 to 64 letters, digits, '_', '.' and '-', not {namespace!r}")
        self._stem = f"{acl.PREFIX}{purpose}{VERSION}:{{{namespace}}}:"

    def __call__(self, kind: str, name: str = "") -> str:
        return f"{self._stem}{kind}:{name}" if name else self._stem + kind
