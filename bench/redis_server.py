"""A real Redis for one test run: Debian's, on a Unix socket in a folder of its own, gone at the end.

Debian's redis-tools is enough: its redis-check-rdb is the server's own binary, which goes by the name it is
called.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from okome.acl import APPLICATION_COMMANDS, rights

START = 60.0  # s; the machine may be busy


def redis_server_binary() -> Path:
    for name in ("redis-server", "redis-check-rdb"):
        found = shutil.which(name)
        if found:
            return Path(found).resolve()
    raise RuntimeError(
        "These tests run a real Redis: install Debian's redis-tools (apt-get install redis-tools)."
    )


class RedisServer:
    """`url` is for the application user, who may do what CN01 lets it do; `admin` may do everything."""

    def __init__(
        self,
        *options: str,
        commands: tuple[str, ...] = APPLICATION_COMMANDS,
        password: str | None = None,
        admin_password: str | None = None,
    ) -> None:
        self._options = options
        self._commands = commands
        self._folder = Path(tempfile.mkdtemp(prefix="okome-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._password = password or secrets.token_hex(16)
        self._admin_password = admin_password or secrets.token_hex(16)
        self.socket = self._folder / "redis.sock"
        self.url = f"unix://okome:{self._password}@{self.socket}"
        self.admin_url = f"unix://admin:{self._admin_password}@{self.socket}"
        self.admin: Redis = Redis(
            unix_socket_path=str(self.socket),
            username="admin",
            password=self._admin_password,
            socket_timeout=10,
            driver_info=None,  # Redis 7.0 would count the question that comes with it as an error
        )

    def __enter__(self) -> Self:
        (self._folder / "redis-server").symlink_to(redis_server_binary())
        acl = self._folder / "users.acl"
        acl.write_text(
            "user default off\n"
            f"user okome on >{self._password} {rights(self._commands)}\n"
            f"user admin on >{self._admin_password} allkeys allchannels +@all\n"
        )
        acl.chmod(0o600)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.admin.close()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start, or start again after `kill`: empty, as CN01 is after a reboot."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    *(str(self._folder / "redis-server"), "--port", "0", "--unixsocket", str(self.socket)),
                    *("--aclfile", str(self._folder / "users.acl"), "--save", "", "--appendonly", "no"),
                    *("--dir", str(self._folder), *self._options),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START
        while True:
            try:
                if self.admin.ping():
                    return
            except RedisError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"redis-server did not start:\n{text}") from None
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9: no goodbye to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=START)
            self._process = None
            self.socket.unlink(missing_ok=True)

    def at(self, port: int) -> "tuple[str, str]":
        """The application user's and the admin's URL over TCP, for a server started with `--port`."""
        address = f"127.0.0.1:{port}"
        return f"redis://okome:{self._password}@{address}", f"redis://admin:{self._admin_password}@{address}"

    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("redis-server does not run")
        return self._process.pid

    def pause(self) -> None:
        """It takes connections and answers nothing, as a hung node does."""
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """It lives on and keeps its data, but nobody gets through to it."""
        away = self.socket.with_suffix(".away")
        self.admin.ping()
        self.socket.rename(away)
        self.admin.client_kill_filter(_type="normal", skipme=True)
        try:
            yield
        finally:
            away.rename(self.socket)

    def execute(self, *command: str | int) -> Any:
        return self.admin.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's own

    def calls(self) -> dict[str, int]:
        """How often each command was called since the last `forget_calls`, those within scripts included."""
        stats: dict[str, dict[str, Any]] = self.admin.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}

    def errors(self) -> dict[str, int]:
        """How often it answered with which error (its first word) since the last `forget_calls`."""
        stats: dict[str, dict[str, Any]] = self.admin.info("errorstats")
        return {name.removeprefix("errorstat_"): int(stat["count"]) for name, stat in stats.items()}

    def forget_calls(self) -> None:
        self.admin.config_resetstat()

    def matching(self, pattern: str) -> list[bytes]:
        return [key for key in self.admin.keys(pattern) if isinstance(key, bytes)]

    def value(self, key: bytes) -> bytes:
        """As Redis would dump it, whatever its type."""
        return bytes(self.admin.dump(key) or b"")

    def text(self, key: str, field: str) -> str:
        """Of a hash; empty if it is not there."""
        value = self.admin.hget(key, field) or b""
        return value if isinstance(value, str) else value.decode()

    def denied(self) -> list[Any]:
        """What the ACL refused."""
        return list(self.admin.acl_log())
