"""Reaching CN01: a client with time limits, scripts that survive SCRIPT FLUSH, the server's clock."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    ClusterError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

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


_PLAIN: dict[str, Any] = {
    "protocol": 2,  # AUTH is one command; HELLO brings nothing that is used here
    "driver_info": None,  # else each connection says CLIENT SETINFO, which Redis from 7.2 on refuses our user
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}


def connect(url: str, *, max_connections: int = 32, timeout: float = 1.0) -> Redis:
    """A client for Cache and Budgets. `timeout`: seconds for connecting, for one answer, and for a free
    connection.

    The pool makes callers wait for a connection; redis-py's default pool raises beyond its limit. One
    immediate retry, for connections that a restarted server has closed: every script of the library may be
    sent twice.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        **_PLAIN,
    )
    base = pool.connection_class  # one for TCP, one for TLS, one for sockets of this machine
    pool.connection_class = type(base.__name__, (_Direct, base), {})
    return Redis.from_pool(pool)


def connect_cluster(url: str, *, max_connections: int = 32, timeout: float = 1.0) -> RedisCluster:
    """The same for a Redis Cluster that any one of its nodes tells of; `max_connections` to each of them. Its
    user may ask what CLUSTER_COMMANDS lists as well.
    """
    return RedisCluster.from_url(
        url,
        max_connections=max_connections,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        **_PLAIN,
    )


_SERIALIZER = HiredisRespSerializer()


class _Direct(AbstractConnection):
    """Sends as redis-py does, with less ado.

    Packed in C, as its blocking client does where hiredis is installed. And not through asyncio.wait_for: before
    Python 3.12 that makes a task of every send, and loses a cancellation that comes when it is done.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = _SERIALIZER.pack(*args)
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit or None):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise RedisTimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit


def require_bytes(redis: Any) -> None:
    """Raise ValueError for a client that decodes answers: values are bytes, not text."""
    if redis.get_encoder().decode_responses:
        raise ValueError(
            "okome stores bytes: make the Redis client with decode_responses=False, or by connect()"
        )


class Line:
    """A connection of its own for whoever comes first; who comes while it is in use is sent to the pool.

    To get a connection from the pool and to give it back is a fifth of a GET. A cluster's client has no such
    thing, and is used as it is.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._own = redis.client() if hasattr(redis, "client") else redis
        self._busy = False
        pool = getattr(redis, "connection_pool", redis)
        self._limit: float | None = getattr(pool, "connection_kwargs", {}).get("socket_timeout")

    def limit(self, seconds: float) -> float | None:
        """What to give asyncio.timeout: None where the client's own limit is as strict. A timeout costs a
        tenth of a GET, and none is needed twice.
        """
        return None if self._limit is not None and self._limit <= seconds else seconds

    async def execute_command(self, *command: Any) -> Any:
        if self._busy:
            return await self._redis.execute_command(*command)
        self._busy = True
        try:
            return await self._own.execute_command(*command)
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """Gives its connection back."""
        if self._own is not self._redis:
            await self._own.aclose(close_connection_pool=False)


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
        self._offset = 0.0
        self._round_trip = 0.0
        self._sampled = float("-inf")
        self._syncing = asyncio.Lock()

    @property
    def known(self) -> bool:
        return self.monotonic() - self._sampled < SYNC_INTERVAL

    def now(self) -> float:
        """Seconds since the epoch, by the server."""
        return self.monotonic() + self._offset

    def observe(self, sent: float, seconds: int, microseconds: int) -> None:
        """TIME came back as (seconds, microseconds) for what was sent at `sent` (monotonic)."""
        received = self.monotonic()
        round_trip = received - sent
        offset = seconds + microseconds / 1e6 - (sent + received) / 2
        # Further apart than both errors allow: the server's clock was set, or it is another server.
        stepped = abs(offset - self._offset) > (round_trip + self._round_trip) / 2 + DRIFT
        if stepped or not self.known or round_trip <= self._round_trip:
            self._offset, self._round_trip, self._sampled = offset, round_trip, received

    async def sync(self, redis: Any, within: float) -> None:
        """Ask for the time, once for all who want to know. Raises what UNAVAILABLE lists."""
        async with asyncio.timeout(within), self._syncing:
            if self.known:
                return
            sent = self.monotonic()
            seconds, microseconds = (int(part) for part in await redis.execute_command("TIME"))
            self.observe(sent, seconds, microseconds)


class Breaker:
    """After a failed call Redis is left alone for `pause` seconds: who comes now need not wait to learn the
    same. A refusal is no such failure: it came at once, and the next command may be taken.
    """

    def __init__(self, pause: float, monotonic: Callable[[], float]) -> None:
        self._pause = pause
        self._monotonic = monotonic
        self._open_until = float("-inf")
        self._quiet_until = float("-inf")

    @property
    def open(self) -> bool:
        return self._monotonic() < self._open_until

    def trip(self, error: BaseException) -> None:
        if is_refusal(error):
            if self._monotonic() >= self._quiet_until:
                log.warning("Redis refuses commands: %s", error)
                self._quiet_until = self._monotonic() + _QUIET
            return
        if not self.open:
            log.warning("Redis is unavailable (%s): going on without it", type(error).__name__)
        self._open_until = self._monotonic() + self._pause
