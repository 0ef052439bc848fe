"""The backend's Redis: its files, how much memory it may have, who may log in."""

import hashlib
import re
from collections.abc import Generator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pyinfra import host
from pyinfra.api import DeployError, StringCommand, operation

from facts.memory import MemoryTotal
from facts.redis import DATA, Redis, RedisState
from facts.several import Question
from facts.units import UnitState, UnitStates
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.kept_aside import REPLACED
from operations.primitives.managed import MARK
from operations.primitives.preflight import Look
from operations.primitives.unit import shell
from operations.services.sockets import LOOPBACK, Socket

UNIT = "redis-server.service"
PACKAGES = ("redis-server",)
# Unit $1 is to be stopped within $2 seconds. A Redis that can't save now (no room, or its first append-only file is
# just being written) goes on as if nothing had been said: it is asked again. (src/server.c, prepareForShutdown)
STOP = r"""
now() { read -r up rest </proc/uptime; echo "${up%.*}"; }
until=$(($(now) + $2))
systemctl --no-block stop -- "$1"
while :; do
    case $(systemctl show -p ActiveState --value -- "$1") in inactive | failed) exit 0 ;; esac
    [ "$(now)" -lt "$until" ] || break
    sleep 2
    pid=$(systemctl show -p MainPID --value -- "$1")
    [ "$pid" -le 1 ] || kill -TERM "$pid"
done
echo "the Redis that was here does not stop: it can't save what it holds, and its log says why. It runs on" >&2
exit 1
"""

STOP_S = 600  # seconds: how long the Redis that was here before ours may save
SERVICE = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/redis_prepare.py", mode="755"),
        ConfigFile("/usr/local/lib/okome/redis-prepare", absent=True),  # what it was called
        ConfigFile("/usr/local/sbin/redis-admin", mode="755"),
        ConfigFile("/etc/systemd/system/redis-server.service.d/zz-okome.conf"),
        ConfigFile(
            "/etc/systemd/system/redis-server.service.d/okome.conf", absent=True
        ),  # what it was called
    ),
    check="systemd",
    values={"replaced": REPLACED, "stop_s": STOP_S},
)
SECRETS = {"okome": "redis_okome", "exporter": "redis_exporter"}  # the password of each user
ALIASES = ("redis.service",)  # Debian's unit has this name too
# maxmemory counts data and client buffers, not what the allocator loses to fragmentation. Redis calls a ratio
# above 1.5 bad (INFO memory, mem_fragmentation_ratio), and Debian's build, with the system's jemalloc, can't
# defragment while it runs. The rest of the node (kernel, journal in RAM, sshd, exporters) gets 512 MiB.
# So 4 GiB want a node of 6.5 GiB: an 8 GB one.
FRAGMENTATION = 1.5
REST_OF_NODE = 512 << 20
SUFFIXES = {"": 1, "k": 10**3, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
SHARE_STEP = 64 << 20  # a share is rounded down, so that a new kernel's few kB do not restart Redis


def maxmemory(wanted: str, total: int) -> int:
    """Bytes for Redis, of a node with `total` bytes of RAM. `wanted` as in group_data/backends.py.

    Raises DeployError if it does not fit.
    """
    digits, suffix = re.fullmatch(r"(\d+)(.*)", wanted.lower()).groups()  # type: ignore[union-attr] # declared so
    number = int(digits)
    share = total * number // 100 // SHARE_STEP * SHARE_STEP
    amount = share if suffix == "%" else number * SUFFIXES[suffix]
    most = max(0, int((total - REST_OF_NODE) / FRAGMENTATION)) // SHARE_STEP * SHARE_STEP
    if not 0 < amount <= most:  # 0 would mean "no limit" to Redis
        raise DeployError(
            f"redis_maxmemory = {wanted!r} does not fit: of {total / 2**30:.1f} GiB of RAM, Redis can have "
            f"{most >> 20}mb at most, with {FRAGMENTATION} times as much for fragmentation and "
            f"{REST_OF_NODE >> 20} MiB for the rest of the node"
        )
    return amount


def sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


FILES = (
    ConfigFile("/etc/redis/redis.conf", owner="redis", group="redis", mode="640"),
    ConfigFile("/etc/redis/users.acl", owner="redis", group="redis", mode="640"),
)
# The arguments of the fact Redis.
ASKED = {
    "files": tuple(file.path for file in FILES),
    "mark": MARK,
    "beside": str(PurePosixPath(REPLACED).parent),
}


def sockets(data: Mapping[str, Any]) -> tuple[Socket, ...]:
    """Where it listens; `data` is the host's."""
    return tuple(
        Socket("Redis", UNIT, address, data["redis_port"], "redis_port")
        for address in (LOOPBACK, data["address"])
    )


def look(data: Mapping[str, Any]) -> Look:
    """`data` is the host's."""
    return Look(
        (Question(MemoryTotal), Question(Redis, ASKED)),
        lambda total, state: [
            *unfit(data["redis_maxmemory"], total),
            *crowded(state),
            *coming(state, data["redis_port"]),
        ],
    )


def unfit(wanted: str, total: int) -> list[str]:
    """Why Redis can't have that much memory."""
    try:
        maxmemory(wanted, total)
    except DeployError as error:
        return [str(error)]
    return []


def crowded(state: RedisState) -> list[str]:
    """Why what is there can't be kept, if that takes room."""
    if state.data is None or state.room is None or state.data <= state.room:
        return []
    return [
        f"what is in {DATA} ({state.data >> 20} MiB) is to be kept below {REPLACED}, and there is room for"
        f" {state.room >> 20} MiB: make room, or move it away"
    ]


def coming(state: RedisState, port: int) -> list[str]:
    """Who may have our port after the next boot."""
    return [
        f"{unit} is enabled and does not run now: at the next boot it may have port {port} before Redis:"
        f" `systemctl disable {unit}`"
        for unit in state.asleep
    ]


def first_contact(state: RedisState) -> str | None:
    """One sentence on what of another Redis gives way to ours; None on a bare node and on one of ours.

    redis_prepare.py keeps the data, when ours starts: until then they are where they were.
    """
    gone = [*state.foreign, *([DATA] if state.data is not None and not state.ours else [])]
    return (
        f"another Redis gives way; {' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} kept below {REPLACED}"
        if gone
        else None
    )


def configuration(wanted: str, total: int, passwords: Mapping[str, str]) -> ConfigSet:
    """Redis' own files, for a node with `total` bytes of RAM. `wanted` is redis_maxmemory; `passwords` are those
    of the users `okome` and `exporter`."""
    return ConfigSet(
        files=FILES,
        check="redis",
        values={
            "maxmemory": maxmemory(wanted, total),
            **{f"{user}_sha256": sha256(password) for user, password in passwords.items()},
        },
    )


def stopping(state: UnitState) -> tuple[StringCommand, ...]:
    """What stops this unit, once it has saved; nothing if nothing of it runs."""
    return () if state.active in ("inactive", "failed") else (shell(STOP, UNIT, str(STOP_S)),)


@operation()
def saved_and_stopped() -> Generator[StringCommand, None, None]:
    """
    Stop a Redis that is not ours, once it has saved what its own configuration says; fail while it can't.

    **Example:**

    .. code:: python

        saved_and_stopped(name="Another Redis saves and stops")
    """
    found = stopping(host.get_fact(UnitStates, units=(UNIT,))[UNIT])
    if not found:
        host.noop("no other Redis runs")
    yield from found
