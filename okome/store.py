"""What lies in Redis for the cache: entries, locks, tags, and the messages about them.

The only module that knows the cache's keys, scripts and messages; what it answers is typed. Whether Redis is
there is known here as well: `read` and what ends in a bool say None or False without it, `enter` raises what
UNAVAILABLE lists.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec

from okome import scripts
from okome.client import place_of, require_fit
from okome.connection import UNAVAILABLE, Breaker, Clock, Line, Script, is_refusal
from okome.entry import Entry, heard, may_be_used, of_the_future
from okome.envelope import TOKEN_AT, TOKEN_BYTES, Codec, Envelope, Kind, unpack
from okome.keys import Keyspace, digest
from okome.policy import CachePolicy
from okome.reader import Reader
from okome.tasks import Tasks
from okome.wake import Wakes

NAMES = 4096  # of keys whose digests are kept
_IN_THREAD = 256 * 1024  # bytes above which packing leaves the event loop alone
_NO_TAGS: dict[str, bytes | None] = {}
_TOKEN = slice(TOKEN_AT, TOKEN_AT + TOKEN_BYTES)
_VALUE = Kind.VALUE  # to look up a member costs an enum as much as decoding does a value
_WAKE, _FORGET, _FORGET_TAG = (
    b"w",
    b"i",
    b"t",
)  # what a message begins with; a name, or a tag's digest, follows


class Newer(msgspec.Struct, frozen=True):
    """Somebody has stored another entry. None: one that can't be used."""

    token: bytes
    entry: Entry | None


class Owned(msgspec.Struct, frozen=True):
    """The lock is ours. `generations`: of the tags, at this moment."""

    generations: dict[str, bytes | None]


class Taken(msgspec.Struct, frozen=True):
    """The lock is somebody else's, for so many seconds if its owner dies now."""

    seconds: float


class Store:
    """One namespace of one Redis. `forget` is called with the name of an entry, `forget_tag` with the digest of
    a tag, when somebody says that what is computed for it now is old.
    """

    def __init__(
        self,
        redis: Any,
        namespace: str,
        policy: CachePolicy,
        clock: Clock,
        tasks: Tasks,
        counts: Counter[str],
        *,
        forget: Callable[[str], None],
        forget_tag: Callable[[str], None],
    ) -> None:
        require_fit(redis)
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._counts = counts
        self._forget = forget
        self._forget_tag = forget_tag
        self._key = Keyspace("c", namespace)
        self._value_key = lru_cache(NAMES)(partial(self._key, "v"))
        self._channel = self._key("wake")
        self.place = place_of(redis), self._channel
        """The same for whoever has the same locks."""
        self._line = Line(redis)
        self._reader = Reader(self._line, self._line.limit(policy.redis_timeout))
        self._wakes = Wakes(redis, self._channel, self._heard)
        self._breaker = Breaker(policy.breaker, clock.monotonic, tasks, self._reconnect)
        life = policy.fresh + max(policy.stale, policy.stale_if_error) + policy.max_compute
        # A tag outlives every entry that hangs on it; without it they are misses.
        self._tag_ttl = _ms(2 * life)

    async def open(self) -> None:
        """Subscribes, and asks for the time; without Redis later."""
        self._wakes.start()
        try:
            async with asyncio.timeout(self._policy.redis_timeout):
                await self._clock.sync(self._line, self._policy.redis_timeout)
                await self._wakes.up.wait()
        except UNAVAILABLE as error:
            self.unavailable(error)

    async def aclose(self) -> None:
        await self._wakes.aclose()
        await self._line.aclose()

    # Whether Redis is there

    @property
    def available(self) -> bool:
        """When last heard of."""
        return self._wakes.up.is_set() and not self._breaker.open

    @property
    def left_alone(self) -> bool:
        """After a failed call, for a moment."""
        return self._breaker.open

    @property
    def gone(self) -> bool:
        return self._breaker.open or self._wakes.lost

    def unavailable(self, error: BaseException) -> None:
        self._counts["refused" if is_refusal(error) else "unavailable"] += 1
        self._breaker.trip(error)

    async def _reconnect(self) -> None:
        await self._line.reconnect()
        await self._wakes.renew()

    # Waiting for others

    @property
    def subscribed(self) -> bool:
        return self._wakes.up.is_set()

    def listen(self) -> None:
        self._wakes.start()

    def arm(self, name: str) -> asyncio.Event:
        """Set when somebody stored it, or gave up its lock; give it back to `disarm`."""
        return self._wakes.arm(name.encode())

    def disarm(self, name: str, event: asyncio.Event) -> None:
        self._wakes.disarm(name.encode(), event)

    def _heard(self, message: bytes) -> None:
        kind, name = message[:1], message[1:].decode(errors="replace")
        if kind == _FORGET:
            self._forget(name)
        elif kind == _FORGET_TAG:
            self._forget_tag(name)

    # Reading

    async def read(self, name: str, tags: tuple[str, ...], codec: Codec[Any]) -> Entry | None:
        """None: nothing that can be used, or no Redis. Otherwise as `_decode`."""
        if self._breaker.open:
            return None
        try:
            if not self._clock.known:
                await self._clock.sync(self._line, self._policy.redis_timeout)
            keys = [self._value_key(name)]
            if not tags:
                (data,), known = await self._reader.read(keys), _NO_TAGS
            else:
                keys += self._tag_keys(tags)
                data, *generations = await self._reader.read(keys)
                known = dict(zip(tags, generations, strict=True))
            return None if data is None else await self._decode(data, codec, known)
        except UNAVAILABLE as error:
            self.unavailable(error)
            return None

    async def _decode(self, data: bytes, codec: Codec[Any], known: dict[str, bytes | None]) -> Entry | None:
        """None for what can't be decoded, is of the future or hangs on an invalidated tag, and for an error or a pass
        past its life. How old a value may be is for those to say who use it.
        """
        if len(data) < _IN_THREAD:
            envelope = unpack(data, codec.name)
        else:
            envelope = await asyncio.to_thread(unpack, data, codec.name)
        if envelope is None:
            self._counts["undecodable"] += 1
            return None
        if of_the_future(envelope, self._clock.now()):
            return None
        if envelope.quiet_until:
            envelope = heard(envelope, self._policy.negative, self._clock.now())
        if envelope.tags and await self._invalidated(envelope, known):
            return None
        if envelope.kind is not _VALUE:
            return Entry(envelope, None) if may_be_used(envelope, self._clock.now()) else None
        try:
            return Entry(envelope, codec.decode(envelope.body))
        except Exception:  # noqa: BLE001  # a codec may raise anything; it always means: a miss
            self._counts["undecodable"] += 1
            return None

    async def _invalidated(self, envelope: Envelope, known: dict[str, bytes | None]) -> bool:
        others = [tag for tag in envelope.tags if tag not in known]
        if others:
            read = await self._reader.read(self._tag_keys(others))
            known = {**known, **dict(zip(others, read, strict=True))}
        return any(known[tag] != generation for tag, generation in envelope.tags.items())

    # Computing: take the lock, keep it, use it or give it up

    async def enter(
        self,
        name: str,
        tags: tuple[str, ...],
        codec: Codec[Any],
        token: bytes,
        *,
        seen: bytes = b"",
        force: bool = False,
    ) -> Newer | Owned | Taken:
        """Read again, or take the lock, or learn for how long it is taken. `seen`: the token of an entry that is
        of no use any more; `force`: take the lock from whoever has it, look at no value.
        """
        sent, cancellations = self._clock.monotonic(), _cancellations()
        try:
            async with asyncio.timeout(self._policy.redis_timeout):
                state, seconds, microseconds, answer, *found = await scripts.ENTER(
                    self._line,
                    self._keys(name, tags),
                    token,
                    _ms(self._policy.lock_ttl),
                    seen,
                    int(force),
                    self._tag_ttl,
                    int(not self._clock.known),
                    *(os.urandom(8) for _ in tags),
                )
                require_wanted(cancellations)
        except (asyncio.CancelledError, *UNAVAILABLE):
            self._tasks.spawn(self.release(name, token))  # the lock may be ours without our knowing
            raise
        if seconds:
            self._clock.observe(sent, int(seconds), int(microseconds))
        generations = dict(zip(tags, found, strict=True))
        if state == b"O":
            return Owned(generations)
        if state == b"W":
            return Taken(max(0, answer) / 1000)
        return Newer(bytes(answer)[_TOKEN], await self._decode(answer, codec, generations))

    async def keep(self, name: str, token: bytes) -> None:
        """The heartbeat of a lock that is ours, until it is cancelled."""
        every = self._policy.lock_ttl / 3
        lock, ttl = [self._key("l", name)], _ms(self._policy.lock_ttl)
        while True:
            await asyncio.sleep(every)
            try:
                async with asyncio.timeout(every):
                    if not await scripts.BEAT(self._line, lock, token, ttl):
                        return  # somebody else's now; the commit will find out and not store
            except UNAVAILABLE:
                self._counts["beats_failed"] += 1

    async def commit(self, name: str, envelope: Envelope, *, replaces: bool = False) -> bool:
        """Store it if the lock is still ours, and give that up. Others wake up; or, if it `replaces` what they
        compute themselves, forget that.
        """
        remaining = envelope.created + envelope.life - self._clock.now()
        try:
            if len(envelope.body) < _IN_THREAD:
                data = envelope.pack()
            else:
                data = await asyncio.to_thread(envelope.pack)
            async with asyncio.timeout(self._policy.write_timeout):
                stored = await scripts.COMMIT(
                    self._line,
                    self._keys(name, envelope.tags),
                    envelope.token,
                    max(1, _ms(remaining)),
                    data,
                    self._channel,
                    (_FORGET if replaces else _WAKE) + name.encode(),
                    *envelope.tags.values(),
                )
        except UNAVAILABLE as error:
            self._counts["store_failed"] += 1
            self.unavailable(error)
            self._tasks.spawn(self.release(name, envelope.token))  # or others wait until it ends by itself
            return False
        self._counts["stored" if stored == 1 else "lost"] += 1
        return bool(stored == 1)

    async def release(self, name: str, token: bytes) -> None:
        try:
            async with asyncio.timeout(self._policy.write_timeout):
                await scripts.RELEASE(
                    self._line, [self._key("l", name)], token, self._channel, _WAKE + name.encode()
                )
        except UNAVAILABLE:
            self._counts["releases_failed"] += 1  # the lock ends by itself

    # Forgetting

    async def invalidate(self, names: Sequence[str]) -> bool:
        """Whoever computes one of them now will not store it. False if Redis could not be told."""
        keys = [self._key(kind, name) for name in names for kind in ("v", "l")]
        return await self._tell(
            scripts.INVALIDATE, keys, self._channel, *(_FORGET + name.encode() for name in names)
        )

    async def invalidate_tag(self, tag: str) -> bool:
        """Likewise, for every entry with this tag."""
        message = _FORGET_TAG + digest(tag).encode()
        return await self._tell(
            scripts.INVALIDATE_TAG,
            self._tag_keys([tag]),
            os.urandom(8),
            self._tag_ttl,
            self._channel,
            message,
        )

    async def _tell(self, script: Script, keys: list[str], *arguments: str | bytes | int) -> bool:
        if self._breaker.open:
            return False
        try:
            async with asyncio.timeout(self._policy.redis_timeout):
                await script(self._line, keys, *arguments)
        except UNAVAILABLE as error:
            self.unavailable(error)
            return False
        return True

    def _keys(self, name: str, tags: Iterable[str]) -> list[str]:
        return [self._key("v", name), self._key("l", name), *self._tag_keys(tags)]

    def _tag_keys(self, tags: Iterable[str]) -> list[str]:
        return [self._key("t", digest(tag)) for tag in tags]


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def require_wanted(before: int = 0) -> None:
    """Raise the cancellation that this task was sent and that redis-py lost: Python 3.11's wait_for, in which it
    sends, forgets one that comes when the command is out already.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
