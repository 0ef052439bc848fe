"""Clients for Cache and Budgets: of one server, of a Sentinel's master, of a Cluster.

All have time limits, make callers wait for a free connection, and ask a server for nothing that CN01's
application user may not do.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, Sentinel
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from okome.arguments import require_name, require_seconds
from okome.redis_url import UrlFile, checked

_PLAIN: dict[str, Any] = {
    "protocol": 2,  # AUTH is one command; HELLO brings nothing that is used here
    "driver_info": None,  # else each connection says CLIENT SETINFO, which Redis from 7.2 on refuses our user
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}


Url = str | Path
"""Of Redis, or the file that holds it. From a file user and password are read again for each connection that logs in:
a password that is changed there is taken up without a restart. The rest of the URL is read once.
"""


def connect(url: Url, *, max_connections: int = 32, timeout: float = 1.0) -> Redis:
    """A client for Cache and Budgets. `timeout`: seconds for connecting, for one answer, and for a free
    connection.

    One immediate retry, for connections that a restarted server has closed: every script of the library may be
    sent twice. Raises TypeError or ValueError for what is no URL and for limits that are none, OSError for a file that
    can't be read.
    """
    _require_limits(max_connections, timeout)
    url, login = _opened(url)
    pool = BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=timeout, **login, **_limits(timeout), **_PLAIN
    )
    base = pool.connection_class  # one for TCP, one for TLS, one for sockets of this machine
    pool.connection_class = type(base.__name__, (Direct, base), {})
    pool.connection_class(
        **pool.connection_kwargs
    )  # an option that it does not know is one now, not at the first call
    return Redis.from_pool(pool)


def connect_sentinel(
    url: Url,
    sentinels: Sequence[tuple[str, int]],
    service: str,
    *,
    max_connections: int = 32,
    timeout: float = 1.0,
    sentinel_options: Mapping[str, Any] | None = None,
) -> Redis:
    """The same for the master that `sentinels`, each (host, port), know as `service`, whichever server it is.

    `url` says user, password and database, and whether TLS is spoken: redis://USER:PASSWORD@/0. Its host is not used.
    `sentinel_options`: how redis-py is to connect to the sentinels: username, password, ssl. Each of them has its
    share of `timeout`, so that one that is silent does not use up all of it.
    """
    _require_sentinels(sentinels)
    require_name("service", service)
    if not isinstance(sentinel_options, Mapping | None):
        raise TypeError(f"sentinel_options are {{option: value}}, not {sentinel_options!r}")
    _require_limits(max_connections, timeout)
    url, login = _opened(url)
    options = dict(ConnectionPool.from_url(url).connection_kwargs)
    base = SentinelManagedSSLConnection if url.startswith("rediss:") else SentinelManagedConnection
    for unused in ("host", "port", "path"):
        options.pop(unused, None)
    share = timeout / (len(sentinels) + 1)
    asking = {**_limits(share), **_PLAIN, **(sentinel_options or {})}
    try:
        known_by = Sentinel(sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]  # redis-py's
    except TypeError as error:  # it names the option
        raise TypeError(f"sentinel_options are those of redis.asyncio.Redis: {error}") from None
    pool = _SentinelPool(  # type: ignore[no-untyped-call]  # redis-py's
        service,
        known_by,
        max_connections=max_connections,
        timeout=timeout,
        connection_class=type(base.__name__, (_AtMaster, base), {}),
        **{**options, **login, **_limits(timeout), **_PLAIN},
    )
    return Redis.from_pool(pool)


def connect_cluster(url: Url, *, max_connections: int = 32, timeout: float = 1.0) -> RedisCluster:
    """The same for a Redis Cluster that any one of its nodes tells of. At most `max_connections` commands at a time;
    each subscription has a connection besides. Its user may ask what CLUSTER_COMMANDS lists as well.
    """
    _require_limits(max_connections, timeout)
    url, login = _opened(url)
    return _WaitingCluster.from_url(
        url,
        turns=max_connections,
        wait=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        **login,
        **_PLAIN,
    )


def _opened(url: Url) -> tuple[str, dict[str, Any]]:
    """A URL that redis-py may read, and what logs in if that does not."""
    if not isinstance(url, Path):
        checked(url)
        return url, {}
    file = UrlFile(url)
    return file.url, {"credential_provider": file}


def _require_sentinels(sentinels: object) -> None:
    if isinstance(sentinels, str | bytes) or not isinstance(sentinels, Sequence):
        raise TypeError(f"sentinels are several (host, port), not {sentinels!r}")
    if not sentinels:
        raise ValueError("sentinels is not empty: at least one (host, port)")
    for one in sentinels:
        if not isinstance(one, tuple | list) or len(one) != 2:
            raise TypeError(f"sentinels are several (host, port): {one!r} is none")
        host, port = one
        require_name("the host of one of sentinels", host)
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"the port of one of sentinels is a whole number, not {port!r}")
        if not 0 < port < 65536:
            raise ValueError(f"the port of one of sentinels is 1 to 65535, not {port}")


def _require_limits(max_connections: object, timeout: object) -> None:
    if isinstance(max_connections, bool) or not isinstance(max_connections, int):
        raise TypeError(f"max_connections is a whole number, not {max_connections!r}")
    if max_connections < 1:
        raise ValueError(f"max_connections is at least 1, not {max_connections}")
    require_seconds("timeout", timeout)


def _limits(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the sentinels for each new connection, and makes callers wait for a free one."""


class _WaitingCluster(RedisCluster):
    """redis-py's nodes refuse the command that finds all connections in use; here it waits its turn, for `wait`
    seconds.
    """

    def __init__(self, *, turns: int, wait: float, **options: Any) -> None:
        super().__init__(max_connections=2**31, **options)
        self._turns = asyncio.Semaphore(turns)
        self._wait = wait

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._wait if self._turns.locked() else None):
                await self._turns.acquire()
        except TimeoutError:
            raise RedisConnectionError("no connection became free in time") from None
        try:
            return await super().execute_command(*args, **options)
        except (
            AttributeError
        ) as error:  # redis-py 8.1, when a node fails, closes what other tasks are writing to
            raise RedisConnectionError("the connection was closed meanwhile") from error
        finally:
            self._turns.release()


_SERIALIZER = HiredisRespSerializer()


class Direct(AbstractConnection):
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

    async def ask(self, *command: Any) -> Any:
        """Sends one command and reads its answer, within one limit for both."""
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit or None):
                await super().send_packed_command(self.pack_command(*command))
                return await self.read_response()
        except TimeoutError:
            raise RedisTimeoutError("Timeout waiting for an answer") from None
        finally:
            self.socket_timeout = limit


class _AtMaster(Direct):
    """Asks the sentinels whenever it is to connect: redis-py's goes back to the address it had, if it is told to send
    before it is told to connect.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]  # redis-py's
        await super().send_packed_command(command, check_health)


def place_of(redis: Redis | RedisCluster) -> object:
    """Where it leads to, by address: the same for two clients of one server, Sentinel's service or Cluster."""
    if isinstance(redis, RedisCluster):
        return frozenset(redis.nodes_manager.startup_nodes)
    pool = redis.connection_pool
    options = pool.connection_kwargs
    service = pool.service_name if isinstance(pool, SentinelConnectionPool) else None
    return service, *(options.get(name) for name in ("host", "port", "path", "db"))


def require_fit(redis: Any) -> None:
    """Raise TypeError for what is no client of redis.asyncio; ValueError for one that decodes answers, for values are
    bytes, and for one that refuses a command when its connections are all in use, as redis-py's own do.
    """
    if not isinstance(redis, Redis | RedisCluster):
        raise TypeError(
            "redis is a client of redis.asyncio, as connect(), connect_sentinel() and connect_cluster() make it; not "
            f"{type(redis).__module__}.{type(redis).__name__}"
        )
    if redis.get_encoder().decode_responses:
        raise ValueError(
            "okome stores bytes: make the Redis client with decode_responses=False, or by connect()"
        )
    pool = None if isinstance(redis, RedisCluster) else redis.connection_pool
    if not isinstance(redis, _WaitingCluster) and not isinstance(pool, BlockingConnectionPool):
        raise ValueError(  # noqa: TRY004  # a client it is
            "this Redis client refuses commands when its connections are all in use, instead of waiting: make it by "
            "connect(), connect_sentinel() or connect_cluster(), or over a redis.asyncio.BlockingConnectionPool"
        )
