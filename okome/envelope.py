"""How a value lies in Redis: a fixed header, the tags it hangs on, the encoded value. What is not this is a
miss.

magic (with version), kind, compressed | crc32 of all that follows | crc32 of the codec's name | token
| created, fresh, stale, stale_if_error, compute, quiet_until (s) | length of tags | tags (msgpack) | body
"""

import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import zstandard

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


class Codec(Protocol[T]):
    """Value to bytes and back. `name` is stored: entries under another name are misses, so put the schema in
    it.
    """

    name: str

    def encode(self, value: T) -> bytes: ...
    def decode(self, data: bytes) -> T: ...


class Msgpack(Generic[T]):
    """msgspec's MessagePack, validated against `type`. Raise `version` when the type's meaning changes.

    TypeError for a type that msgspec does not know, or that has one inside: it could be neither written nor read.
    """

    def __init__(self, type: type[T], version: int = 1) -> None:  # noqa: A002  # msgspec's own word for it
        _require_known(msgspec.inspect.type_info(type), set())
        self.name = f"msgpack:{type!r}:{version}"
        # The functions themselves: a method around them costs a third of decoding.
        self.encode: Callable[[T], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(type).decode


def _require_known(part: object, seen: set[int]) -> None:
    """`part` of a type, as msgspec describes it; `seen`: those that were looked at, since types may be recursive."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, msgspec.inspect.CustomType):
        raise TypeError(
            f"msgspec can't encode {part.cls!r}: use a Struct, a dataclass, or a codec of your own"
        )
    if isinstance(part, tuple):
        for one in part:
            _require_known(one, seen)
    elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in part.__struct_fields__:
            _require_known(getattr(part, name), seen)


class Bytes:
    """Bytes as they are."""

    name = "bytes"

    def encode(self, value: bytes) -> bytes:
        return value

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
