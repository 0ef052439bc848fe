"""The pure parts: keys, headers, envelopes."""

import math
import struct
import zlib
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from okome import Bytes, Directives, Msgpack, Quota, Status, is_deterministic, key_of, keys
from okome.envelope import Envelope, Kind, unpack
from okome.headers import cache_headers, rate_limit_headers
from okome.keys import Keyspace

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0}

NAMES = st.text().filter(lambda name: name not in keys.SCHEMAS)  # Hypothesis finds them in the source
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


def shuffled(value: Any) -> Any:
    """The same, its fields in the opposite order."""
    if isinstance(value, dict):
        return {name: shuffled(item) for name, item in reversed(value.items())}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_the_order_of_fields_is_no_difference(request: dict[str, Any]) -> None:
    assert key_of(request, tenant="t") == key_of(shuffled(request), tenant="t")


@pytest.mark.parametrize(
    "holding",
    [
        lambda schema: {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        },
        lambda schema: {"response_format": {"type": "json_object", "schema": schema}},
        lambda schema: {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
        lambda schema: {"functions": [{"name": "f", "parameters": schema}]},
        lambda schema: {"tools": [{"name": "f", "input_schema": schema}]},
        lambda schema: {"guided_json": schema},
        lambda schema: {"structured_outputs": {"json": schema}},
        lambda schema: {"format": schema},
    ],
)
def test_the_order_of_a_schemas_properties_is_a_difference(holding: Any) -> None:
    """A model generates them in that order: an answer before its reason is another answer."""
    text = {"type": "string"}
    inner = {"type": "object", "properties": {"reason": text, "answer": text}}
    swapped = {"type": "object", "properties": {"answer": text, "reason": text}}
    nested = {"type": "object", "properties": {"list": {"type": "array", "items": inner}}}
    nested_swapped = {"type": "object", "properties": {"list": {"type": "array", "items": swapped}}}
    keys = {
        key_of(REQUEST | holding(schema), tenant="t") for schema in (inner, swapped, nested, nested_swapped)
    }
    assert len(keys) == 4
    # What stands around the schema has no order, as everywhere.
    outside = holding(inner)
    assert key_of(dict(reversed((REQUEST | outside).items())), tenant="t") == key_of(
        REQUEST | outside, tenant="t"
    )


def test_which_of_two_schemas_has_which_order_is_a_difference() -> None:
    one: dict[str, Any] = {"a": 1, "b": 2}
    two: dict[str, Any] = {"b": 2, "a": 1}
    pairs = [(one, one), (one, two), (two, one), (two, two)]
    keys = {
        key_of({"tools": [{"parameters": {"properties": these}} for these in pair]}, tenant="t")
        for pair in pairs
    }
    assert len(keys) == 4


def test_a_million_tokens_are_looked_at_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    look = keys._require_json

    def counting(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        look(*arguments)

    monkeypatch.setattr(keys, "_require_json", counting)
    key_of({"prompt": list(range(1_000_000))}, tenant="t")
    assert steps == 2
    with pytest.raises(TypeError):
        key_of({"prompt": [*range(1000), object()]}, tenant="t")


def test_every_other_difference_is_one() -> None:
    requests = [
        REQUEST,
        REQUEST | {"temperature": 0.0},
        REQUEST | {"temperature": False},
        REQUEST | {"temperature": "0"},
        REQUEST | {"temperature": None},
        REQUEST | {"model": "M"},
        REQUEST | {"unknown": 1},
        REQUEST | {"stream": True},
        REQUEST | {"messages": []},
        REQUEST | {"messages": [{"role": "user", "content": "x", "user": "nested"}]},
        {},
    ]
    keys = {key_of(request, tenant=tenant) for request in requests for tenant in ("a", "b")}
    assert len(keys) == 2 * len(requests)


class Words(str):
    """As some library may have them."""

    def __str__(self) -> str:
        return "something else"


class Count(IntEnum):
    ONE = 1


class Number(float):
    """As numpy's are."""


def test_what_is_of_a_derived_class_is_what_it_is_derived_from() -> None:
    """And a mapping is a mapping, with its order where that counts."""
    plain: dict[str, Any] = {"a": "HIT", "b": "x", "c": 1.5, "d": {"e": [1]}, "f": 1}
    derived = {
        "a": Status.HIT,
        "b": Words("x"),
        "c": Number(1.5),
        "d": MappingProxyType({"e": (1,)}),
        "f": Count.ONE,
    }
    assert key_of(MappingProxyType(derived), tenant="t") == key_of(plain, tenant="t")
    schemas = [
        {"schema": MappingProxyType(dict(pairs))} for pairs in ((("a", 1), ("b", 2)), (("b", 2), ("a", 1)))
    ]
    assert len({key_of(request, tenant="t") for request in schemas}) == 2


def test_what_looks_alike_is_not_the_same() -> None:
    values = [
        1,
        1.0,
        True,
        "1",
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        "\u00e9",
        "e\u0301",
        [],
        {},
        [1],
        [[1]],
        {"a": 1},
    ]
    assert len({key_of({"a": value}, tenant="t") for value in values}) == len(values)


def test_what_cannot_change_the_answer_is_not_in_the_key() -> None:
    assert key_of(REQUEST | {"user": "ann", "metadata": {"a": 1}}, tenant="t") == key_of(REQUEST, tenant="t")
    assert key_of(REQUEST | {"user": "ann"}, tenant="t", ignore=()) != key_of(REQUEST, tenant="t", ignore=())


def test_the_canonical_form_is_stable() -> None:
    """Another digest here empties every cache at the next deploy: raise VERSION instead."""
    assert key_of(REQUEST, tenant="acme") == "v2-9c8d837cf434d5857cb8ab5142b43010a26fa7e1"


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: "x"}, {1}, b"x", object()])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        key_of({"a": [value]}, tenant="t")


@pytest.mark.parametrize(
    ("request_", "deterministic"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0, "seed": 1}, True),
        ({"seed": 1}, False),
        ({"temperature": 0.7, "seed": 1}, False),
        ({"temperature": 0.1}, False),
        ({}, False),
        ({"temperature": None}, False),
        ({"temperature": "0"}, False),
        ({"temperature": False}, False),
        ({"temperature": 0, "tools": None}, True),
        ({"temperature": 0, "tools": []}, True),
        ({"temperature": 0, "tools": [{"type": "function", "function": {"name": "f"}}]}, True),
        ({"temperature": 0, "tools": [{"type": "custom", "custom": {"name": "f"}}]}, True),
        ({"temperature": 0, "tools": [{"type": "function"}, {"type": "web_search"}]}, False),
        ({"temperature": 0, "tools": [{"type": "mcp", "server_url": "x"}]}, False),
        ({"temperature": 0, "tools": ["web_search"]}, False),
        ({"temperature": 0, "tools": "web_search"}, False),
        ({"temperature": 0, "tools": {"type": "function"}}, False),
        ({"temperature": 0, "web_search_options": {}}, False),
        ({"temperature": 0, "web_search_options": None}, True),
        ({"temperature": 0, "plugins": [{"id": "web"}]}, False),
        ({"temperature": 0, "data_sources": []}, False),
    ],
)
def test_deterministic(request_: dict[str, Any], deterministic: bool) -> None:
    assert is_deterministic(request_) is deterministic


@given(st.text(min_size=1), st.text(min_size=1))
def test_all_keys_of_a_namespace_share_a_slot_and_the_prefix(one: str, two: str) -> None:
    key = Keyspace("c", "ns")
    names = [key("v", one), key("l", two), key("wake")]
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert all(name.startswith("okome:c1:{ns}:") for name in names)
    assert key_slot(Keyspace("c", "other")("v", one).encode()) != key_slot(names[0].encode())


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Directives()),
        ("", Directives()),
        ("max-age=5, private", Directives()),
        ("No-Cache", Directives(no_cache=True)),
        ("max-age = 0", Directives(no_cache=True)),
        ("no-store,only-if-cached", Directives(no_store=True, only_if_cached=True)),
    ],
)
def test_directives(header: str | None, expected: Directives) -> None:
    assert Directives.parse(header) == expected


@pytest.mark.parametrize(
    ("status", "stored", "expected"),
    [
        (Status.HIT, False, "okome; hit; ttl=412"),
        (Status.MISS, True, "okome; fwd=uri-miss; stored"),
        (Status.MISS, False, "okome; fwd=uri-miss"),
        (Status.COALESCED, True, "okome; fwd=uri-miss; stored; collapsed"),
        (Status.BYPASS, False, "okome; fwd=bypass"),
        (Status.DEGRADED, False, "okome; fwd=uri-miss; detail=degraded"),
    ],
)
def test_cache_status(status: Status, stored: bool, expected: str) -> None:
    headers = cache_headers(status, age=3.9, ttl=412.7, stored=stored)
    assert headers["Cache-Status"] == expected
    assert headers.get("Age") == ("3" if status is Status.HIT else None)


def test_rate_limit_headers_show_the_tightest_limit_of_a_unit() -> None:
    quotas = [
        Quota("day", "tokens", 1000, 900, 86400, 3605.2),
        Quota("minute", "tokens", 100, 5, 60, 12.1),
        Quota("rpm", "requests", 10, 10, 60, 0),
    ]
    assert rate_limit_headers(quotas, retry_after=0.2) == {
        "RateLimit-Policy": '"minute";q=100;w=60;qu="tokens", "day";q=1000;w=86400;qu="tokens", '
        '"rpm";q=10;w=60;qu="requests"',
        "RateLimit": '"minute";r=5;t=13, "day";r=900;t=3606, "rpm";r=10;t=0',
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "13s",
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "0s",
        "Retry-After": "1",
    }
    assert rate_limit_headers(quotas[:1])["x-ratelimit-reset-tokens"] == "1h0m6s"


def envelope(body: bytes, **changes: Any) -> Envelope:
    fields: dict[str, Any] = {"created": 1.0, "fresh": 2.0, "stale": 3.0, "tags": {"a": b"g"}} | changes
    return Envelope(Kind.VALUE, "bytes", b"t" * 16, body=body, **fields)


@given(st.binary(max_size=5000))
def test_an_envelope_survives(body: bytes) -> None:
    packed = envelope(body).pack()
    assert unpack(packed, "bytes") == envelope(body)
    assert unpack(packed, "another codec") is None


def test_large_bodies_are_compressed() -> None:
    assert len(envelope(b"x" * 100_000).pack()) < 1000
    assert unpack(envelope(b"x" * 100_000).pack(), "bytes") == envelope(b"x" * 100_000)


@given(st.binary(max_size=300))
def test_junk_is_a_miss(junk: bytes) -> None:
    assert unpack(junk, "bytes") is None
    assert unpack(b"okm\x01\x01\x00" + junk, "bytes") is None


@given(st.data())
def test_any_damage_is_a_miss(data: st.DataObject) -> None:
    packed = bytearray(envelope(b"value" * 20).pack())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    damaged = bytes(packed)
    found = unpack(damaged, "bytes")
    # The kind and the flag stand before the checksum: another valid kind is another entry, not a wrong value.
    assert found is None or (at in (4, 5) and found.body == b"value" * 20)
    assert unpack(bytes(packed[:at]), "bytes") is None


@given(st.binary(max_size=200), st.booleans())
def test_a_right_checksum_over_junk_is_a_miss_or_an_entry_but_no_exception(
    rest: bytes, compressed: bool
) -> None:
    data = struct.pack(">3sBBBI", b"okm", 1, 1, compressed, zlib.crc32(rest)) + rest
    unpack(data, "bytes")


def test_a_bomb_is_a_miss() -> None:
    bomb = envelope(b"\0" * (9 * 1024 * 1024)).pack()
    assert len(bomb) < 10_000
    assert unpack(bomb, "bytes") is None


def test_codecs_name_their_schema() -> None:
    assert Msgpack(int).name != Msgpack(str).name != Msgpack(str, version=2).name
    assert Bytes().decode(Bytes().encode(b"x")) == b"x"
