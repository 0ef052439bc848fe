"""How a value lies in Redis: a fixed header, the tags it hangs on, the encoded value. What is not this is a
miss.

magic (with version), kind, compressed | crc32 of all that follows | crc32 of the codec's name | token
| created, fresh, stale, stale_if_error, compute, quiet_until (s) | length of tags | tags (msgpack) | body
"""

import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar, get_args

import msgspec
import zstandard

from okome.arguments import require_name, require_plain_function

T = TypeVar("T")

MAGIC: Final = b"okm\x01"
"""The last byte is the version of this format."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""The largest value that is stored, encoded and before compression."""
COMPRESS_ABOVE: Final = 2048  # bytes; below it zstd costs more time than the network does
TOKEN_BYTES: Final = 16

_HEAD = struct.Struct(">4sBBI")  # magic and version, kind, compressed, checksum
_REST = struct.Struct(">I16sddddddI")
_HEADER = struct.Struct(_HEAD.format + _REST.format.removeprefix(">"))
TOKEN_AT: Final = _HEAD.size + 4
"""Where the token stands: the scripts compare it without reading the value."""


def as_bytes(what: str, value: object) -> bytes:
    """As everybody gets it, from the source or from Redis. TypeError for what is no bytes: text would have to be
    encoded, and bytes() makes so many zeros of a number.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{what} is bytes, not {type(value).__name__}")


class Codec(Protocol[T]):
    """Value to bytes and back. `name` is stored: entries under another name are misses, so put the schema in
    it.
    """

    name: str

    def encode(self, value: T) -> bytes: ...
    def decode(self, data: bytes) -> T: ...


def require_codec(codec: object) -> None:
    """Raises TypeError or ValueError for what is no Codec."""
    if isinstance(codec, type):
        raise TypeError(
            f"codec is an instance, such as Bytes() or Msgpack(Answer), not the class {codec.__name__}"
        )
    if not hasattr(codec, "encode") or not hasattr(codec, "decode"):
        raise TypeError(
            f"codec has a name, encode and decode, such as Bytes() or Msgpack(Answer); not {codec!r}"
        )
    require_name("the codec's name", getattr(codec, "name", None))
    for name in ("encode", "decode"):
        require_plain_function(f"the codec's {name}", getattr(codec, name), "a function of one value")


class Msgpack(Generic[T]):
    """msgspec's MessagePack, validated against `type`. Raise `version` when the type's meaning changes.

    TypeError for a type that msgspec does not know, or that has one inside: it could be neither written nor read. And
    for a type variable, which stands for anything.
    """

    def __init__(self, type: type[T], version: int = 1) -> None:  # noqa: A002  # msgspec's own word for it
        if isinstance(version, bool) or not isinstance(version, int):
            raise TypeError(f"version is a whole number, not {version!r}")
        if _has_variable(type):
            raise TypeError(f"type is what a value is, and {type!r} has a variable where that is to be said")
        try:
            known = msgspec.inspect.type_info(type)
            decoder = msgspec.msgpack.Decoder(type)
        except Exception as error:  # whatever it or the type's own annotations raise
            raise TypeError(f"type is one that msgspec can read: {error}") from error
        _require_known(known, set())
        self.name = f"msgpack:{type!r}:{version}"
        # The functions themselves: a method around them costs a third of decoding.
        self.encode: Callable[[T], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], T] = decoder.decode


def _has_variable(part: object) -> bool:
    """Whether a type has a TypeVar in it. A class that is generic has them unless it says of what."""
    if isinstance(part, type) and not get_args(part):
        return bool(getattr(part, "__parameters__", ()))
    return isinstance(part, TypeVar) or any(_has_variable(one) for one in get_args(part))


def _require_known(part: object, seen: set[int]) -> None:
    """`part` of a type, as msgspec describes it; `seen`: those that were looked at, since types may be recursive."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, msgspec.inspect.CustomType):
        raise TypeError(
            f"type: msgspec can't encode {part.cls!r}: use a Struct, a dataclass, or a codec of your own"
        )
    if isinstance(part, tuple):
        for one in part:
            _require_known(one, seen)
    elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in part.__struct_fields__:
            _require_known(getattr(part, name), seen)


class Bytes:
    """Bytes as they are. TypeError for anything else."""

    name = "bytes"

    def encode(self, value: bytes) -> bytes:
        return as_bytes("a value", value)

    def decode(self, data: bytes) -> bytes:
        return data


class Kind(IntEnum):
    VALUE = 1
    ERROR = 2  # a remembered failure; the body is the error's type name
    PASS = 3  # too large to store: compute without waiting for one another


class Envelope(msgspec.Struct, frozen=True):
    """One entry. Times in seconds: `created` and `quiet_until` by Redis's clock, the others are durations."""

    kind: Kind
    codec: str
    token: bytes
    created: float
    fresh: float
    body: bytes
    stale: float = 0.0
    stale_if_error: float = 0.0
    compute: float = 0.0
    quiet_until: float = 0.0
    tags: dict[str, bytes] = {}

    @property
    def life(self) -> float:
        """Seconds from creation until nobody may use it."""
        return self.fresh + max(self.stale, self.stale_if_error)

    def pack(self) -> bytes:
        compressed = len(self.body) > COMPRESS_ABOVE
        body = zstandard.compress(self.body, 3) if compressed else self.body
        tags = _TAGS.encode(self.tags) if self.tags else b""
        rest = b"".join(
            (
                _REST.pack(
                    _CODEC_IDS[self.codec],
                    self.token,
                    self.created,
                    self.fresh,
                    self.stale,
                    self.stale_if_error,
                    self.compute,
                    self.quiet_until,
                    len(tags),
                ),
                tags,
                body,
            )
        )
        return _HEAD.pack(MAGIC, self.kind, compressed, zlib.crc32(rest)) + rest


_TAGS = msgspec.msgpack.Encoder()
_TAGS_DECODER = msgspec.msgpack.Decoder(dict[str, bytes])


class _CodecIds(dict[str, int]):
    """By name, each computed once."""

    def __missing__(self, name: str) -> int:
        self[name] = zlib.crc32(name.encode())
        return self[name]


_CODEC_IDS = _CodecIds()


def unpack(data: bytes, codec: str) -> Envelope | None:
    """The envelope, or None for anything that was not packed by this version with this codec."""
    if len(data) < _HEADER.size:
        return None
    (
        magic,
        number,
        compressed,
        checksum,
        codec_id,
        token,
        created,
        fresh,
        stale,
        stale_if_error,
        compute,
        quiet_until,
        tag_bytes,
    ) = _HEADER.unpack_from(data)
    kind = _KINDS.get(number)
    if magic != MAGIC or codec_id != _CODEC_IDS[codec] or kind is None:
        return None
    if zlib.crc32(data[_HEAD.size :]) != checksum:
        return None
    start = _HEADER.size + tag_bytes
    tags: dict[str, bytes] = {}
    if tag_bytes:
        try:
            tags = _TAGS_DECODER.decode(data[_HEADER.size : start])
        except msgspec.DecodeError:
            return None
    body = data[start:]
    if compressed:
        try:
            if zstandard.frame_content_size(body) > MAX_BYTES:
                return None
            body = zstandard.decompress(body, max_output_size=MAX_BYTES)
        except zstandard.ZstdError:
            return None
    return Envelope(
        kind,
        codec,
        token,
        created,
        fresh,
        body,
        stale,
        stale_if_error,
        compute,
        quiet_until,
        tags,
    )


_KINDS = {int(kind): kind for kind in Kind}
