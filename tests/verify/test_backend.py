"""What a finished backend is, from the LAN where it can be, and as root of the node where it must be."""

import os
import runpy
import socket
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from testinfra.host import Host

from okome.acl import PREFIX
from operations.primitives.secret import load, secret, secrets_file
from operations.services.redis import maxmemory
from tests.verify.conftest import assert_drop_in_prevails

GROUP = "backends"
DATA = runpy.run_path(str(Path(__file__).parents[2] / "group_data/backends.py"))
PORT: int = DATA["redis_port"]


def address(node: Host) -> str:
    return str(node.backend.host.name)


def client(node: Host, user: str | None = None, password: str | None = None) -> redis.Redis:
    """A connection over the LAN, as the orchestrator's."""
    return redis.Redis(
        address(node),
        PORT,
        username=user,
        password=password,
        protocol=2,
        socket_timeout=10,
        socket_connect_timeout=10,
        retry=Retry(NoBackoff(), 0),
    )


def say(who: redis.Redis, *words: str) -> object:
    return who.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py's own


def answer(node: Host, *words: str) -> str:
    """The first line of Redis' answer to a stranger on the LAN; redis-py would say more than these words."""
    with socket.create_connection((address(node), PORT), timeout=10) as stranger:
        stranger.sendall(f"*{len(words)}\r\n".encode())
        for word in words:
            stranger.sendall(f"${len(word)}\r\n{word}\r\n".encode())
        return stranger.makefile().readline().strip()


def settings(node: Host, pattern: str = "*") -> dict[str, str]:
    """Redis' own word on its configuration, asked by root of the node."""
    lines = node.check_output("redis-admin --raw config get %s", pattern).split("\n")
    # They come in any order, and an empty value at the very end is cut off.
    return dict(zip_longest(lines[::2], lines[1::2], fillvalue=""))


@pytest.fixture
def okome(node: Host) -> redis.Redis:
    return client(node, "okome", secret("redis_okome"))


@pytest.fixture
def key(okome: redis.Redis) -> Iterator[str]:
    """A key of the application's, and nobody's."""
    name = f"{PREFIX}verify:{os.urandom(8).hex()}"
    yield name
    okome.delete(name)


def test_the_application_has_its_cache(okome: redis.Redis, key: str) -> None:
    assert okome.set(key, "1", px=60_000)
    assert okome.eval("return redis.call('get', KEYS[1])", 1, key) == b"1"
    subscriber = okome.pubsub()  # type: ignore[no-untyped-call] # redis-py's own
    subscriber.subscribe(key)
    assert subscriber.get_message(timeout=10)
    assert okome.publish(key, "woken") == 1
    message = subscriber.get_message(timeout=10)
    assert message is not None
    assert message["data"] == b"woken"
    subscriber.close()


@pytest.mark.parametrize("command", ["PING", "INFO", "HELLO", "GET okome:a"])
def test_nobody_is_let_in_without_a_password(node: Host, command: str) -> None:
    assert answer(node, *command.split()).startswith("-NOAUTH ")


@pytest.mark.parametrize("user", ["default", "okome", "exporter", "admin", "root"])
@pytest.mark.parametrize("password", ["", "redis", "okome"])
def test_nobody_is_let_in_with_a_guess(node: Host, user: str, password: str) -> None:
    assert answer(node, "AUTH", user, password).startswith("-WRONGPASS ")


DENIED = [
    "GET other",
    "SET other 1",
    "PUBLISH other 1",
    "SUBSCRIBE other",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET *",
    "CONFIG SET maxmemory 0",
    "SAVE",
    "BGSAVE",
    "SHUTDOWN NOSAVE",
    "REPLICAOF 192.0.2.1 6379",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "ACL LIST",
    "MODULE LIST",
    "SCRIPT FLUSH",
    "INFO",
]


@pytest.mark.parametrize("command", DENIED)
def test_the_application_may_do_nothing_else(okome: redis.Redis, command: str) -> None:
    with pytest.raises(redis.ResponseError, match="permission"):
        say(okome, *command.split())


def test_a_script_may_do_nothing_else(okome: redis.Redis, key: str) -> None:
    for body in ("return redis.call('flushall')", "return redis.call('get', 'other')"):
        with pytest.raises(redis.ResponseError, match=r"executing the script can't|ACL failure in script"):
            okome.eval(body, 1, key)


def test_the_exporter_reads_numbers_and_no_keys(node: Host, okome: redis.Redis, key: str) -> None:
    exporter = client(node, "exporter", secret("redis_exporter"))
    info = exporter.info()
    assert isinstance(info, dict)
    assert info["maxmemory_policy"] == "allkeys-lru"
    okome.set(key, "1", px=60_000)
    for command in (f"GET {key}", f"SET {key} 2", "SCAN 0", "CONFIG GET *", "CLIENT LIST", "FLUSHALL"):
        with pytest.raises(redis.ResponseError, match="permission"):
            say(exporter, *command.split())


def test_no_password_that_exists_off_the_node_is_the_administrators(node: Host) -> None:
    known = load(secrets_file()).values()
    assert known
    for password in known:
        assert answer(node, "AUTH", "admin", password).startswith("-WRONGPASS ")


def test_the_administrators_password_is_roots_and_in_ram(node: Host) -> None:
    file = node.file("/run/redis-acl/admin")
    assert (file.user, oct(file.mode)) == ("root", "0o600")
    assert node.check_output("findmnt -no FSTYPE -T /run/redis-acl/admin") == "tmpfs"
    assert node.run("runuser -u redis -- cat /run/redis-acl/admin").rc != 0
    assert node.run("runuser -u nobody -- redis-admin ping").rc != 0
    assert node.check_output("redis-admin acl whoami") == "admin"


def test_redis_listens_on_loopback_and_the_lan_address_and_nothing_else_listens(node: Host) -> None:
    listening = {line.split()[3] for line in node.check_output("ss -Hltn").splitlines()}
    loopback = {where for where in listening if where.startswith(("127.", "[::1]"))}
    assert {where for where in listening if where.endswith(f":{PORT}")} == {
        f"127.0.0.1:{PORT}",
        f"{address(node)}:{PORT}",
    }
    assert listening - loopback - {f"{address(node)}:{PORT}"} <= {"0.0.0.0:22", "[::]:22"}
    assert node.check_output("ss -Hlun | grep -v -e 127. -e '\\[::1\\]' || true") == ""


def test_nothing_is_persistent(node: Host) -> None:
    assert node.check_output("find /var/lib/redis -mindepth 1") == ""
    found = settings(node)
    assert (found["save"], found["appendonly"], found["stop-writes-on-bgsave-error"]) == ("", "no", "no")
    assert found["logfile"] == ""  # the journal, which is in RAM


def test_memory_is_bounded_and_evicts(node: Host) -> None:
    total = int(node.check_output("grep ^MemTotal: /proc/meminfo").split()[1]) * 1024
    found = settings(node)
    assert int(found["maxmemory"]) == maxmemory(DATA["redis_maxmemory"], total)
    assert found["maxmemory-policy"] == "allkeys-lru"
    assert found["maxmemory-clients"] != "0"
    lazy = {key: value for key, value in found.items() if key.startswith("lazyfree-")}
    assert lazy
    assert set(lazy.values()) == {"yes"}


def test_what_runs_is_what_the_files_say(node: Host) -> None:
    """Neither a CONFIG SET nor a file edited without a restart."""
    found = settings(node)
    for line in node.file("/etc/redis/redis.conf").content_string.splitlines():
        name, _, value = line.partition(" ")
        if name in (
            "maxmemory",
            "maxmemory-policy",
            "maxmemory-clients",
            "bind",
            "port",
            "databases",
            "timeout",
        ):
            assert found[name] == value
    users = node.check_output("redis-admin acl users").splitlines()
    assert sorted(users) == ["admin", "default", "exporter", "okome"]
    assert "off" in node.check_output("redis-admin acl getuser default").splitlines()


def test_what_runs_is_debians_server_with_our_configuration_and_our_users(node: Host) -> None:
    """Whatever a drop-in of somebody else says: asked of systemd, and of the server itself."""
    started = node.check_output("systemctl show -p ExecStart --value redis-server")
    assert "argv[]=/usr/bin/redis-server /etc/redis/redis.conf " in started
    said = node.check_output("redis-admin --raw info server").split()
    assert "config_file:/etc/redis/redis.conf" in said
    assert f"process_id:{node.service('redis-server').systemd_properties['MainPID']}" in said
    assert settings(node, "aclfile") == {"aclfile": "/run/redis-acl/users.acl"}


def test_redis_can_change_neither_its_configuration_nor_its_users(node: Host) -> None:
    for command in ("config rewrite", "acl save"):
        assert "ERR" in node.check_output(f"redis-admin {command} || true")
    assert not node.file("/etc/redis/redis.conf").contains("# Generated by CONFIG REWRITE")


def test_the_service_starts_at_boot_waits_for_the_network_and_never_gives_up(node: Host) -> None:
    assert node.service("redis-server").is_enabled
    assert node.service("redis-server").is_running
    unit = node.service("redis-server").systemd_properties
    assert unit["Restart"] == "always"
    assert unit["StartLimitIntervalUSec"] == "0"
    assert "network-online.target" in unit["After"].split()
    assert "network-online.target" in unit["Wants"].split()
    assert unit["NeedDaemonReload"] == "no"


def test_what_runs_is_debians_redis_with_our_files(node: Host) -> None:
    assert_drop_in_prevails(node, "redis-server.service")
    says = node.check_output("systemctl show -p ExecStart redis-server")
    assert "argv[]=/usr/bin/redis-server /etc/redis/redis.conf " in says
    assert "config_file:/etc/redis/redis.conf" in node.check_output("redis-admin --raw info server").split()


def test_debians_sandbox_is_kept(node: Host) -> None:
    unit = node.service("redis-server").systemd_properties
    wanted = {
        "User": "redis",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateDevices": "yes",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
        "MemoryDenyWriteExecute": "yes",
        "CapabilityBoundingSet": "",
        "ReadWritePaths": "/var/lib/redis",
    }
    assert {key: unit.get(key, "") for key in wanted} == wanted
