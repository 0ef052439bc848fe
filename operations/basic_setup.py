"""Phase 1: what a node is for. Redis on the backend, nginx on the frontend."""

import hashlib
import re
from dataclasses import replace

from pyinfra import host
from pyinfra.api import DeployError, deploy
from pyinfra.facts.files import Sha256File
from pyinfra.operations import server

from facts.machine import Machine
from facts.memory import MemoryTotal
from facts.nginx import NginxFile, NginxFiles
from facts.units import APPLIED
from operations.config_set import ConfigFile, ConfigSet, config_set, host_data
from operations.nginx import OPEN_REQUESTS, SITE, giving_way, kept_aside, nginx_config
from operations.packages import packages
from operations.secret import secret
from operations.unit import unit

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

    Raises DeployError if it is not an amount, or does not fit.
    """
    match = re.fullmatch(r"(\d+)(%|[kmg]?b?)", wanted.strip().lower())
    if not match or (match[2] != "%" and match[2] not in SUFFIXES):
        raise DeployError(
            f'redis_maxmemory is {wanted!r}; say an amount such as "4gb" or a share such as "50%"'
        )
    number, suffix = int(match[1]), match[2]
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


@deploy("Basic setup: backend")
def backend() -> None:
    """Redis: bounded, evicting, keeping nothing; for the LAN's application user, the exporter, and root."""
    service = ConfigSet(
        files=(
            ConfigFile("/usr/local/lib/okome/redis-prepare", mode="755"),
            ConfigFile("/usr/local/sbin/redis-admin", mode="755"),
            ConfigFile("/etc/systemd/system/redis-server.service.d/okome.conf"),
        ),
        check="systemd",
    )
    redis = ConfigSet(
        files=(
            ConfigFile("/etc/redis/redis.conf", owner="redis", group="redis", mode="640"),
            ConfigFile("/etc/redis/users.acl", owner="redis", group="redis", mode="640"),
        ),
        check="redis",
        values={
            "maxmemory": maxmemory(host.data.redis_maxmemory, host.get_fact(MemoryTotal)),
            "okome_sha256": sha256(secret("redis_okome")),
            "exporter_sha256": sha256(secret("redis_exporter")),
        },
    )
    # Before the package, which would start Redis with Debian's configuration: the drop-in prevents that.
    config_set(name="Redis service", config=service)
    packages(name="Redis", names=["redis-server"])
    config_set(name="Redis configuration", config=redis)
    unit(name="redis-server runs", unit="redis-server", restarted_if=(service, redis))


@deploy("Basic setup: frontend")
def frontend() -> None:
    """nginx: one site in front of the orchestrator, its cache, its logs."""
    suite = host.get_fact(Machine, _sudo=False)["release"].rpartition(" ")[2]
    tls = host.data.tls_certificate
    certificate = host.get_fact(Sha256File, path=tls) if tls else None
    nginx = nginx_config(suite, host.name.upper(), host_data(), certificate)
    found: tuple[NginxFile, ...] = host.get_fact(NginxFiles)
    old, aside = giving_way(found, nginx, host_data())
    gone = tuple(ConfigFile(path, absent=True) for path in old)
    service = ConfigSet(
        files=(ConfigFile("/etc/systemd/system/nginx.service.d/okome.conf"),),
        check="systemd",
        values={"site": SITE},
    )
    folders = ConfigSet((ConfigFile("/etc/tmpfiles.d/okome-nginx.conf"),), check="tmpfiles")
    rotation = ConfigSet((ConfigFile("/etc/logrotate.d/okome-nginx"),), check="logrotate")
    hourly = ConfigSet((ConfigFile("/etc/systemd/system/logrotate.timer.d/okome.conf"),), check="systemd")

    # Before the package, which would start nginx with whatever is there: the drop-in prevents that.
    config_set(name="nginx service", config=service)
    packages(name="nginx", names=["nginx"])
    config_set(name="nginx folders", config=folders)
    config_set(name="nginx log rotation", config=rotation)
    config_set(name="Log sizes are looked at every hour", config=hourly)
    unit(name="Logs are rotated", unit="logrotate.timer", restarted_if=hourly)
    kept_aside(name="Copies of what gives way", paths=old + aside)
    if old:
        # nginx may run with what is removed now: before that goes, the mark that nginx was told goes.
        server.shell(name="nginx is to be told", commands=[f"rm -f {APPLIED}/nginx.service.reload"])
    config_set(name="nginx configuration", config=replace(nginx, files=nginx.files + gone))
    unit(
        name="nginx runs",
        unit="nginx",
        restarted_if=service,
        reloaded_if=nginx,
        busy=OPEN_REQUESTS,
        patience=host.data.drain_timeout_s + 60,  # a stream may begin in the moment before a restart
    )
