"""A slip is said at the call, by the argument's name; nothing is taken for something else."""

import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from redis.asyncio import Redis

from bench.redis_server import RedisServer
from okome import (
    Bytes,
    Cache,
    CachedStream,
    CachePolicy,
    Codec,
    Directives,
    Msgpack,
    Period,
    connect,
    connect_cluster,
    connect_sentinel,
    is_deterministic,
    key_of,
)
from tests.unit.okome.caches import Answer, Open
from tests.unit.okome.waiting import settled

pytestmark = pytest.mark.anyio


async def _answer() -> bytes:
    return b"answer"


async def _chunks() -> Any:
    yield b"chunk"


# The cache


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("model:x", "tags are several names"),
        (b"model:x", "tags are several"),
        (None, "tags are several"),
        (5, "tags are several"),
        ([1], "one of tags"),
        ([None], "one of tags"),
    ],
)
async def test_tags_are_names(open_cache: Open, tags: Any, said: str) -> None:
    cache: Cache[Any] = open_cache()
    for call in (
        lambda: cache.get_or_compute("key", _answer, tags=tags),
        lambda: cache.stream("key", _chunks, complete=bool, tags=tags),
        lambda: cache.get("key", tags=tags),
        lambda: cache.put("key", b"answer", tags=tags),
    ):
        with pytest.raises(TypeError, match=said):
            await call()
    with pytest.raises(ValueError, match="one of tags is empty"):
        await cache.get("key", tags=[""])
    with pytest.raises(TypeError, match="tag is a name"):
        await cache.invalidate_tag(None)  # type: ignore[arg-type]


def test_errors_worth_remembering_are_kinds_of_exceptions() -> None:
    several: Any = [ValueError, OSError]
    assert CachePolicy(negative_errors=several).negative_errors == (ValueError, OSError)
    for wrong in (ValueError, [ValueError("x")], "ValueError", (KeyboardInterrupt,), None):
        with pytest.raises(TypeError, match="negative_errors is a tuple"):
            CachePolicy(negative_errors=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("fresh", "300", TypeError),
        ("fresh", None, TypeError),
        ("fresh", True, TypeError),
        ("fresh", math.nan, ValueError),
        ("stale", math.inf, ValueError),
        ("negative", -1, ValueError),
        ("max_bytes", 10.5, TypeError),
        ("degraded_computes", 2.5, TypeError),
    ],
)
def test_a_policy_has_numbers(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        CachePolicy(**{name: value})


class Plain:
    """Nothing that msgspec knows."""


class Node(msgspec.Struct):
    children: "list[Node]"


@dataclass
class Holder:
    several: dict[str, list[Plain]]


@pytest.mark.parametrize("unknown", [Plain, list[Plain], Holder, Plain | None])
def test_a_codec_can_encode_its_type(unknown: Any) -> None:
    with pytest.raises(TypeError, match=r"type: msgspec can't encode .*Plain"):
        Msgpack(unknown)


def test_a_codec_takes_what_msgspec_knows() -> None:
    tree: Codec[Node] = Msgpack(Node)
    assert tree.decode(tree.encode(Node([Node([])]))) == Node([Node([])])
    for known in (int, dict[str, Any], tuple[bytes, ...], Period):
        Msgpack(known)


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    inside: T


OF_ANYTHING: list[Any] = [T, list[T], dict[str, list[T]], Box, list[Box], Box[T] | None]  # type: ignore[valid-type, type-arg]


@pytest.mark.parametrize("unknown", OF_ANYTHING)
def test_a_type_says_what_a_value_is(unknown: Any) -> None:
    """A variable stands for anything, and anything would be decoded."""
    with pytest.raises(TypeError, match="type is what a value is"):
        Msgpack(unknown)
    Msgpack(Box[int])


@pytest.mark.parametrize("unknown", ["Answer", 5, [], Node([]), Box[int](1), "nothing()", Node | Box[int]])
def test_a_type_is_one(unknown: Any) -> None:
    with pytest.raises(TypeError, match=r"^type"):
        Msgpack(unknown)


@pytest.mark.parametrize("version", [None, "2", 2.0, True])
def test_a_version_is_a_whole_number(version: Any) -> None:
    with pytest.raises(TypeError, match="version is a whole number"):
        Msgpack(int, version)


class Async(Bytes):
    async def encode(self, value: bytes) -> bytes:  # type: ignore[override]  # on purpose
        return value


class Nameless:
    encode = decode = bytes


class Numbered(Bytes):
    name = 7  # type: ignore[assignment]  # on purpose


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"codec": int}, TypeError, "codec is an instance, .* not the class int"),
        ({"codec": Bytes}, TypeError, "codec is an instance"),
        ({"codec": None}, TypeError, "codec has a name, encode and decode"),
        ({"codec": "bytes"}, TypeError, "codec has"),
        ({"codec": Nameless()}, TypeError, "the codec's name"),
        ({"codec": Numbered()}, TypeError, "the codec's name"),
        ({"codec": Async()}, TypeError, "the codec's encode"),
        ({"policy": {}}, TypeError, "policy is a CachePolicy, not {}"),
        ({"policy": CachePolicy}, TypeError, "policy is a CachePolicy"),
        ({"policy": 0}, TypeError, "policy is a CachePolicy"),
        ({"clock": 0}, TypeError, "clock is a Clock"),
        ({"clock": math}, TypeError, "clock is a Clock"),
        ({"uniform": 0.5}, TypeError, "uniform is a function"),
        ({"uniform": _answer}, TypeError, "uniform is a function"),
        ({"namespace": None}, TypeError, "namespace is a name"),
        ({"namespace": b"x"}, TypeError, "namespace is a name"),
        ({"namespace": ""}, ValueError, "namespace is empty"),
        ({"namespace": "a b"}, ValueError, "a namespace is 1 to 64 letters"),
    ],
)
async def test_a_cache_is_made_of_what_it_says(
    redis: Redis, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    words: dict[str, Any] = {"namespace": "n", "codec": Bytes(), "policy": None}
    Cache(redis, **words)
    with pytest.raises(kind, match=said):
        Cache(redis, **words | change)


@pytest.mark.parametrize(
    ("key", "kind", "said"),
    [
        (None, TypeError, "key is a name"),
        (5, TypeError, "key is a name"),
        (b"k", TypeError, "key is a name"),
        (["k"], TypeError, "key is a name"),
        ("", ValueError, "key is empty"),
        ("\ud800", ValueError, "key holds half of a surrogate pair"),
    ],
)
async def test_a_key_is_a_name(open_cache: Open, key: Any, kind: type[Exception], said: str) -> None:
    cache: Cache[Any] = open_cache()
    for call in (
        lambda: cache.get_or_compute(key, _answer),
        lambda: cache.stream(key, _chunks, complete=bool),
        lambda: cache.get(key),
        lambda: cache.put(key, b"answer"),
        lambda: cache.invalidate(key),
    ):
        for _ in range(2):  # what is remembered of a key is not that it was wrong
            with pytest.raises(kind, match=said):
                await call()


@pytest.mark.parametrize("directives", ["no-store", None, {}, {"no-store"}, Directives, 1])
async def test_directives_are_directives(open_cache: Open, directives: Any) -> None:
    cache: Cache[Any] = open_cache()
    for call in (
        lambda: cache.get_or_compute("k", _answer, directives=directives),
        lambda: cache.stream("k", _chunks, complete=bool, directives=directives),
    ):
        with pytest.raises(TypeError, match="directives are Directives"):
            await call()


@pytest.mark.parametrize("name", ["no_cache", "no_store", "only_if_cached"])
def test_a_directive_is_given_or_not(name: str) -> None:
    for wrong in ("no", None, 1, 0.0):
        with pytest.raises(TypeError, match=f"{name} is True or False"):
            Directives(**{name: wrong})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("header", [b"no-store", ["no-store"], 0, False])
def test_a_header_is_text(header: Any) -> None:
    with pytest.raises(TypeError, match="cache_control is the header's text"):
        Directives.parse(header)


def _sync() -> Any:
    return b"answer"


def _several() -> Any:
    yield b"chunk"


async def test_what_computes_is_an_async_function(open_cache: Open) -> None:
    cache: Cache[Any] = open_cache(stale_if_error=0)
    awaited = _answer()
    wrong: list[Any] = [None, b"answer", 5, awaited]
    for directives in (Directives(), Directives(no_store=True)):
        for compute in (*wrong, _sync, _several, _chunks, bytes):
            with pytest.raises(TypeError, match="compute is an async function"):
                await cache.get_or_compute("k", compute, directives=directives)
        for produce in (*wrong, _sync, _several, bytes):
            with pytest.raises(TypeError, match="produce is an async generator's function"):
                await cache.stream("k", produce, complete=bool, directives=directives)
    awaited.close()
    assert (await cache.get_or_compute("k", lambda: _answer())).value == b"answer"


async def _always(_: object) -> bool:
    return True


@pytest.mark.parametrize("verdict", [True, 60, "yes", _always, _chunks])
async def test_what_decides_is_a_plain_function(open_cache: Open, verdict: Any) -> None:
    """What an async one says is true, whatever it says."""
    cache: Cache[Any] = open_cache()
    with pytest.raises(TypeError, match="keep is a function"):
        await cache.get_or_compute("k", _answer, keep=verdict)
    with pytest.raises(TypeError, match="complete is a function"):
        await cache.stream("k", _chunks, complete=verdict)


@pytest.mark.parametrize(
    ("compute", "kind"),
    [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), (True, TypeError), ("1", TypeError)],
)
async def test_what_it_took_is_a_time(open_cache: Open, compute: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="compute is a number of seconds"):
        await open_cache().put("k", Answer("x"), compute=compute)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (Bytes(), "text"),
        (Bytes(), None),
        (Bytes(), 5),
        (Msgpack(Answer), {"txt": 1}),
        (Msgpack(int), "5"),
        (Msgpack(dict), {"a": Plain()}),
    ],
)
async def test_what_is_put_can_be_carried(
    redis: Redis, server: RedisServer, codec: Codec[Any], value: Any
) -> None:
    async with Cache(redis, namespace="n", codec=codec) as cache:
        with pytest.raises(TypeError, match="value can't be carried by the codec"):
            await cache.put("k", value)
        assert server.matching("okome:*:[vl]:*") == []


async def test_a_codec_makes_bytes(redis: Redis, server: RedisServer) -> None:
    """What it makes otherwise is delivered, not stored and counted, and the lock is given up."""

    class Text:
        name = "text"

        def encode(self, value: str) -> Any:
            return value

        def decode(self, data: Any) -> str:
            return str(data)

    async def text() -> str:
        return "text"

    async with Cache(redis, namespace="n", codec=Text()) as cache:
        assert (await cache.get_or_compute("k", text)).value == "text"
        await settled(cache)
        assert (cache.counts["unencodable"], cache.counts["stored"]) == (1, 0)
        assert server.matching("okome:*:[vl]:*") == []


# Keys


@pytest.mark.parametrize("request_", [None, "", [("model", "m")], 5, {"model"}])
def test_a_request_is_a_mapping(request_: Any) -> None:
    with pytest.raises(TypeError, match="request is a mapping"):
        key_of(request_, tenant="t")
    with pytest.raises(TypeError, match="request is a mapping"):
        is_deterministic(request_)


def test_what_has_no_place_in_a_key_is_said() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    wrong: list[tuple[Any, type[Exception]]] = [
        ({"a": b"x"}, TypeError),
        ({"a": [{1}]}, TypeError),
        ({"a": {1: "x"}}, TypeError),
        ({"a": math.nan}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"\ud800": 1}, ValueError),
        (deep, ValueError),
    ]
    for request, kind in wrong:
        with pytest.raises(kind, match="request"):
            key_of(request, tenant="t")
    while deep:  # or to forget it is as deep
        deep = deep["a"]


@pytest.mark.parametrize(("tenant", "kind"), [(None, TypeError), (7, TypeError), ("", ValueError)])
def test_a_tenant_is_a_name(tenant: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="tenant"):
        key_of({"model": "m"}, tenant=tenant)


@pytest.mark.parametrize("ignore", ["user", b"user", None, 5])
def test_fields_to_ignore_are_several(ignore: Any) -> None:
    with pytest.raises(TypeError, match="ignore are several names"):
        key_of({"model": "m", "use": 1}, tenant="t", ignore=ignore)


def test_fields_to_ignore_may_come_one_by_one() -> None:
    names: Any = (name for name in ("b", "a"))
    assert key_of({"a": 1, "b": 2, "c": 3}, tenant="t", ignore=names) == key_of({"c": 3}, tenant="t")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"timeout": math.nan}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": None}, TypeError),
        ({"max_connections": 0}, ValueError),
        ({"max_connections": 2.5}, TypeError),
    ],
)
async def test_a_client_has_limits(change: dict[str, Any], kind: type[Exception]) -> None:
    said = next(iter(change))
    for client in (
        lambda: connect("redis://localhost/0", **change),
        lambda: connect_sentinel("redis://localhost/0", [("localhost", 26379)], "okome", **change),
        lambda: connect_cluster("redis://localhost", **change),
    ):
        with pytest.raises(kind, match=said):
            client()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"sentinels": "localhost:26379"}, TypeError, "sentinels are several"),
        ({"sentinels": ["localhost:26379"]}, TypeError, "sentinels are several"),
        ({"sentinels": ("localhost", 26379)}, TypeError, "sentinels are several"),
        ({"sentinels": None}, TypeError, "sentinels are several"),
        ({"sentinels": {("localhost", 26379)}}, TypeError, "sentinels are several"),
        ({"sentinels": []}, ValueError, "sentinels is not empty"),
        ({"sentinels": [("localhost", "26379")]}, TypeError, "port of one of sentinels"),
        ({"sentinels": [("localhost", 0)]}, ValueError, "port of one of sentinels"),
        ({"sentinels": [(None, 26379)]}, TypeError, "host of one of sentinels"),
        ({"service": None}, TypeError, "service is a name"),
        ({"service": ""}, ValueError, "service is empty"),
        ({"sentinel_options": ["ssl"]}, TypeError, "sentinel_options"),
        ({"sentinel_options": {"pasword": "x"}}, TypeError, "sentinel_options .*pasword"),
    ],
)
def test_sentinels_are_addresses(change: dict[str, Any], kind: type[Exception], said: str) -> None:
    words: dict[str, Any] = {"sentinels": [("localhost", 26379)], "service": "okome"}
    connect_sentinel("redis://localhost/0", **words)
    with pytest.raises(kind, match=said):
        connect_sentinel("redis://localhost/0", **words | change)


async def test_a_streams_chunks_come_one_by_one() -> None:
    wrong: Any
    for wrong in (None, b"chunk", [b"chunk"], _chunks):
        with pytest.raises(TypeError, match="chunks are an async iterator"):
            CachedStream(wrong, {})
    for wrong in (None, b"chunk", "chunk", _chunks):
        with pytest.raises(TypeError, match="chunks are several"):
            CachedStream.replay(wrong, {})
