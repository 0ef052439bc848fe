"""Phase 1: what a node is for. Redis on the backend, nginx on the frontend."""

from dataclasses import replace

from pyinfra import host, logger
from pyinfra.api import deploy

from facts.files import Digest
from facts.machine import Machine
from facts.memory import MemoryTotal
from facts.nginx import NginxFile, NginxFiles
from facts.redis import Redis, RedisState
from operations.primitives.config_set import ConfigFile, config_set, host_data
from operations.primitives.kept_aside import kept_aside
from operations.primitives.overrides import prevailing
from operations.primitives.packages import packages
from operations.primitives.preflight import seen
from operations.primitives.secret import secret
from operations.primitives.unit import unit
from operations.services import nginx, nginx_strangers, redis


@deploy("Basic setup: backend")
def backend() -> None:
    """Redis: bounded, evicting, keeping nothing; for the LAN's application user, the exporter, and root."""
    passwords = {user: secret(name) for user, name in redis.SECRETS.items()}
    configuration = redis.configuration(host.data.redis_maxmemory, seen(MemoryTotal), passwords)
    found: RedisState = seen(Redis, **redis.ASKED)
    if before := redis.first_contact(found):
        logger.warning(f"{host.print_prefix}{before}")
        kept_aside(name="The other Redis' configuration", paths=found.foreign)
    if not found.ours:
        # While its own unit says how long that may take: ours gives nothing much time.
        redis.saved_and_stopped(name="Another Redis saves and stops")
    # Before the package, which would start Redis with Debian's configuration: the drop-in prevents that.
    service = prevailing(redis.SERVICE, redis.ALIASES)
    config_set(name="Redis service", config=service)
    packages(name="Redis", names=redis.PACKAGES)
    config_set(name="Redis configuration", config=configuration)
    unit(
        name="redis-server runs",
        unit=redis.UNIT,
        restarted_if=(service, configuration),
        patience=redis.STOP_S + 60,
    )


@deploy("Basic setup: frontend")
def frontend() -> None:
    """nginx: one site in front of the orchestrator, its cache, its logs."""
    suite = seen(Machine, _sudo=False)["release"].rpartition(" ")[2]
    tls = host.data.tls_certificate
    certificate = seen(Digest, path=tls) if tls else None
    configuration = nginx.nginx_config(suite, host.name.upper(), host_data(), certificate)
    found: tuple[NginxFile, ...] = seen(NginxFiles)
    judged = nginx_strangers.verdict(found, configuration, host_data())
    gone = tuple(ConfigFile(path, absent=True) for path in judged.removed)
    configuration = replace(configuration, files=configuration.files + gone)

    # Before the package, which would start nginx with whatever is there: the drop-in prevents that.
    service, hourly = prevailing(nginx.service(host_data())), prevailing(nginx.HOURLY)
    config_set(name="nginx service", config=service)
    packages(name="nginx", names=nginx.PACKAGES)
    config_set(name="nginx folders", config=nginx.FOLDERS)
    config_set(name="nginx log rotation", config=nginx.ROTATION)
    config_set(name="Log sizes are looked at every hour", config=hourly)
    unit(name="Logs are rotated", unit="logrotate.timer", restarted_if=hourly)
    kept_aside(name="Copies of what gives way", paths=judged.removed + judged.aside)
    config_set(name="nginx configuration", config=configuration)
    unit(
        name="nginx runs",
        unit="nginx",
        restarted_if=service,
        reloaded_if=configuration,
        busy=nginx.open_requests(),
        proof=nginx.proof(host.data.address, tls=bool(tls)),
        patience=host.data.drain_timeout_s + 60,  # a stream may begin in the moment before a restart
    )
