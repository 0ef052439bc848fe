"""What a client is used through: a line of one's own, scripts that survive SCRIPT FLUSH, the server's clock, a
breaker, one event loop.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from redis.exceptions import (
    ClusterError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from okome.client import Direct
from okome.tasks import Tasks

log = logging.getLogger(__name__)

UNAVAILABLE = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a call to Redis raises when the answer can't be had, whatever the cause."""


def is_refusal(error: BaseException) -> bool:
    """Whether Redis is there and said no to one command, at once: OOM, READONLY, MISCONF, WRONGTYPE, NOPERM.

    Other commands, reads above all, may well succeed. LOADING and CLUSTERDOWN are for all of them.
    """
    return isinstance(error, ResponseError) and not isinstance(error, ClusterError)


SYNC_INTERVAL = 60.0  # s
_QUIET = 60.0  # s between two lines of the log about refusals
DRIFT = 0.01  # s; two quartz clocks drift apart by some 3 ms in that time


_SHARE = 4  # a pool gives a quarter of its connections to lines that use more than one
_extra: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()
"""By pool: how many those are now."""


class Line:
    """Connections of its own for whoever comes first; who comes while they are in use is sent to the pool.

    To get a connection from the pool and to give it back is a fifth of a GET, and what redis-py does around a
    command (its lock, retries and statistics) another: of that only the retry is kept. There is one connection for
    the first, and more as they are needed; but another client's than `connect`'s has only one, as nothing is gained
    there. A cluster's client has no such thing, and is used as it is.
    """

    def __init__(self, redis: Any, *, anew: Callable[[], Awaitable[None]] | None = None) -> None:
        """`anew`: called before a command is sent again to a server that may be another one by now; not by means of
        this line, nor for what a client of redis-py's own sends again.
        """
        self._redis = redis
        self._anew = anew
        self.breaks = 0
        """How often an answer did not come, or nobody knows any more from whom the next one will."""
        self._whole = not hasattr(redis, "client")
        self._own: list[Any] = [] if self._whole else [redis.client()]
        self._free = list(self._own)
        self._pool: Any = getattr(redis, "connection_pool", None)
        self._direct = issubclass(getattr(self._pool, "connection_class", object), Direct)
        self._limit: float | None = getattr(self._pool, "connection_kwargs", {}).get("socket_timeout")

    def limit(self, seconds: float) -> float | None:
        """What to give asyncio.timeout: None where the client's own limit is as strict. A timeout costs a
        tenth of a GET, and none is needed twice.
        """
        return None if self._limit is not None and self._limit <= seconds else seconds

    async def execute_command(self, *command: Any) -> Any:
        own = self._free.pop() if self._free else self._another()
        try:
            if own is None:
                return await self._redis.execute_command(*command)
            connection = own.connection if self._direct else None
            if connection is None or not connection.is_connected or connection.should_reconnect():
                return await own.execute_command(*command)
            try:
                return await connection.ask(*command)
            except RedisConnectionError:  # a server that was restarted has closed it
                self.breaks += 1
                await connection.connect()
                if self._anew is not None:
                    await self._anew()
                return await connection.ask(*command)
        except ResponseError:
            raise
        except BaseException:
            self.breaks += 1
            # A connection that one holds on to goes back to the address it had. That of the pool asks where Redis is
            # now: a Sentinel's client finds the new master.
            if own is not None:
                await _give_back(own)
            raise
        finally:
            if own is not None:
                self._free.append(own)

    def _another(self) -> Any:
        """None: who comes now is sent to the pool."""
        if not self._direct or _extra.get(self._pool, 0) >= self._pool.max_connections // _SHARE:
            return None
        _extra[self._pool] = _extra.get(self._pool, 0) + 1
        self._own.append(self._redis.client())
        return self._own[-1]

    async def reconnect(self) -> None:
        """All connections of the client go: the next command, wherever it comes from, finds out anew where Redis is.

        Those in use go when their command is done. A cluster's client sees to it itself.
        """
        self.breaks += 1
        if self._whole:
            return
        for own in list(self._free):
            await _give_back(own)
        await self._pool.update_active_connections_for_reconnect()
        await self._pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Gives its connections back."""
        for own in self._own:
            await _give_back(own)
        if len(self._own) > 1:
            _extra[self._pool] -= len(self._own) - 1
            del self._own[1:]
            self._free = list(self._own)


async def _give_back(own: Any) -> None:
    await own.aclose(close_connection_pool=False)


class Script:
    """A Lua script, sent by its digest and in full where the server does not know it (any more)."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self, redis: Any, keys: Sequence[str | bytes], *arguments: str | bytes | int | float
    ) -> Any:
        try:
            return await redis.execute_command("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await redis.execute_command("EVAL", self.source, len(keys), *keys, *arguments)


class Clock:
    """Redis's time, estimated from the answers it gave: all processes agree on it, whatever their own clocks
    say.

    A sample is kept if its round trip was shorter than the last one's, or if that is older than
    SYNC_INTERVAL. The error is at most half of the round trip.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self._offset = time.time() - monotonic()  # until Redis has told: this host's own clock
        self._round_trip = 0.0
        self._sampled = float("-inf")
        self.heard = float("-inf")
        """Monotonic: when an answer last came."""
        self._syncing = asyncio.Lock()

    @property
    def known(self) -> bool:
        return self.monotonic() - self._sampled < SYNC_INTERVAL

    def now(self) -> float:
        """Seconds since the epoch, by the server."""
        return self.monotonic() + self._offset

    def observe(self, sent: float, seconds: int, microseconds: int) -> None:
        """TIME came back as (seconds, microseconds) for what was sent at `sent` (monotonic)."""
        received = self.heard = self.monotonic()
        round_trip = received - sent
        offset = seconds + microseconds / 1e6 - (sent + received) / 2
        # Further apart than both errors allow: the server's clock was set, or it is another server.
        stepped = abs(offset - self._offset) > (round_trip + self._round_trip) / 2 + DRIFT
        if stepped or not self.known or round_trip <= self._round_trip:
            self._offset, self._round_trip, self._sampled = offset, round_trip, received

    async def sync(self, redis: Any, within: float) -> None:
        """Ask for the time, once for all who want to know. Raises what UNAVAILABLE lists."""
        async with asyncio.timeout(within), self._syncing:
            if not self.known:
                await self.ask(redis)

    async def ask(self, redis: Any) -> None:
        sent = self.monotonic()
        seconds, microseconds = (int(part) for part in await redis.execute_command("TIME"))
        self.observe(sent, seconds, microseconds)


class Breaker:
    """After a failed call Redis is left alone for `pause` seconds: who comes now need not wait to learn the
    same. A refusal is no such failure: it came at once, and the next command may be taken. READONLY says that it
    is not the master any more: `reconnect` is called, once per pause, to find the one that is.
    """

    def __init__(
        self,
        pause: float,
        monotonic: Callable[[], float],
        tasks: Tasks,
        reconnect: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._pause = pause
        self._monotonic = monotonic
        self._tasks = tasks
        self._reconnect = reconnect
        self._open_until = float("-inf")
        self.tripped = float("-inf")
        """Monotonic: when a call failed last."""
        self._quiet_until = float("-inf")
        self._stays_until = float("-inf")
        self._reconnecting: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        return self._monotonic() < self._open_until

    def trip(self, error: BaseException) -> None:
        if is_refusal(error):
            if self._monotonic() >= self._quiet_until:
                log.warning("Redis refuses commands: %s", _named(error))
                self._quiet_until = self._monotonic() + _QUIET
            if isinstance(error, ReadOnlyError):
                self._move()
            return
        if not self.open:
            log.warning("Redis is unavailable (%s): going on without it", type(error).__name__)
        self.tripped = self._monotonic()
        self._open_until = self.tripped + self._pause

    def _move(self) -> None:
        under_way = self._reconnecting is not None and not self._reconnecting.done()
        if under_way or self._monotonic() < self._stays_until:
            return
        self._stays_until = self._monotonic() + self._pause
        self._reconnecting = self._tasks.spawn(self._moved())

    async def _moved(self) -> None:
        try:
            await self._reconnect()
        except UNAVAILABLE as error:
            log.warning("closing connections to Redis: %s", type(error).__name__)


def _named(error: BaseException) -> str:
    """Its kind. Not what it says: for a command that it does not know, Redis repeats the arguments, AUTH's too."""
    code = str(error).partition(" ")[0]
    return code if code.isalpha() and code.isupper() else type(error).__name__


class Loop:
    """The event loop that something belongs to: the first one in which it is used. `belongs`: what, with the verb."""

    def __init__(self, belongs: str) -> None:
        self._belongs = belongs
        self._loop: asyncio.AbstractEventLoop | None = None

    def require(self) -> None:
        """Raises RuntimeError in another one, where what waits in the first would never be woken."""
        running = asyncio.get_running_loop()
        if self._loop is running:
            return
        if self._loop is not None:
            raise RuntimeError(
                f"{self._belongs} to the event loop of the first use: make another, over a Redis client of its own, "
                "for each event loop"
            )
        self._loop = running
