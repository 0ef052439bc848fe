"""A master, its replica, and the sentinels that make the one the other: real ones, for one run."""

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from bench.redis_server import START, RedisServer, redis_server_binary

SERVICE = "okome"
COUNT = 3  # sentinels
# Sentinel does nothing for 30 s once it was itself held up for 2 (TILT, src/sentinel.c): a busy machine may be.
FAILOVER = 100.0  # s


class Sentinels:
    """`url` is for the application user, and leads to no server: `addresses` know where the master is. `ports`: five
    free ones.
    """

    def __init__(self, ports: list[int], *, down_after: int = 1000) -> None:
        """`down_after`: ms of silence after which a server is down."""
        self._ports = ports
        self._down_after = down_after
        self._stack = ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="okome-sentinels-"))
        self._password, self._admin_password = secrets.token_hex(16), secrets.token_hex(16)
        self.url = f"redis://okome:{self._password}@"
        self.addresses = [("127.0.0.1", port) for port in ports[2:]]
        self.servers: dict[int, RedisServer] = {}
        """By port: the master first."""

    def __enter__(self) -> Self:
        try:
            first, second = self._ports[:2]
            self._serve(first)
            self._serve(second, "--replicaof", "127.0.0.1", str(first))
            (self._folder / "redis-sentinel").symlink_to(redis_server_binary())
            for _, port in self.addresses:
                self._watch(port, first)
            self._until(self._ready, "the sentinels do not know each other and both servers", FAILOVER)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def master(self) -> int:
        """Its port, as the sentinels say."""
        with self._sentinel(self.addresses[0][1]) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(SERVICE)[1])

    def promoted(self, old: int) -> int:
        """Waits until another one than `old` is the master, to all of them and to itself."""
        ports = [port for port in self.servers if port != old]

        def done() -> bool:
            return any(
                all(self._says(address[1], port) for address in self.addresses)
                and self.servers[port].admin.info("replication")["role"] == "master"
                for port in ports
            )

        self._until(done, "nobody took over", FAILOVER)
        return self.master()

    def demote(self) -> int:
        """Makes the other one the master while both are there; the port of the one that was."""
        old = self.master()
        with self._sentinel(self.addresses[0][1]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
        return old

    def _says(self, sentinel_port: int, master: int) -> bool:
        with self._sentinel(sentinel_port) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(SERVICE)[1]) == master

    def _serve(self, port: int, *options: str) -> None:
        self.servers[port] = self._stack.enter_context(
            RedisServer(
                *("--bind", "127.0.0.1", "--port", str(port), *options),
                *("--masteruser", "admin", "--masterauth", self._admin_password),
                *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
                password=self._password,
                admin_password=self._admin_password,
            )
        )

    def _watch(self, port: int, master: int) -> None:
        configuration = self._folder / f"{port}.conf"  # which it writes itself, too
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\nlogfile {self._folder}/{port}.log\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} {COUNT // 2 + 1}\n"
            f"sentinel auth-user {SERVICE} admin\nsentinel auth-pass {SERVICE} {self._admin_password}\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after}\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )
        process = subprocess.Popen(
            [str(self._folder / "redis-sentinel"), str(configuration), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait, START)
        self._stack.callback(process.kill)

    def _ready(self) -> bool:
        try:
            for _, port in self.addresses:
                with self._sentinel(port) as sentinel:
                    state = sentinel.sentinel_master(SERVICE)
                    (replica,) = sentinel.sentinel_slaves(SERVICE)
                if state["num-other-sentinels"] != COUNT - 1 or state["is_sdown"] or replica["is_sdown"]:
                    return False
        except (RedisError, ValueError):
            return False
        found = [server.admin.info("replication") for server in self.servers.values()]
        return {(one["role"], one.get("master_link_status")) for one in found} == {
            ("master", None),
            ("slave", "up"),
        }

    @staticmethod
    def _sentinel(port: int) -> Redis:
        return Redis(host="127.0.0.1", port=port, socket_timeout=10, driver_info=None)

    @staticmethod
    def _until(done: Callable[[], bool], otherwise: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(otherwise)
            time.sleep(0.05)
