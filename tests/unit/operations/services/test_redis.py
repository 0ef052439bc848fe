"""Redis as the backend gets it: the rule for its memory, and its files under the real server."""

import hashlib
import os
import pwd
import runpy
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pyinfra.api import DeployError
from redis.backoff import NoBackoff
from redis.retry import Retry

from facts.memory import MemoryTotal
from facts.redis import Redis, RedisState, parse
from facts.several import Question
from facts.units import UnitState
from node import redis_prepare
from operations.primitives.checkers import CHECKERS
from operations.primitives.config_set import TEMPLATES, ConfigFile, render
from operations.services.redis import (
    ASKED,
    FILES,
    STOP,
    UNIT,
    configuration,
    crowded,
    first_contact,
    look,
    maxmemory,
    sockets,
    stopping,
    unfit,
)
from operations.services.sockets import Socket

GIB = 1 << 30
PI8, PI4, PI1 = int(7.7 * GIB), int(3.7 * GIB), int(0.9 * GIB)


@pytest.mark.parametrize(
    ("wanted", "total", "amount"),
    [
        ("4gb", PI8, 4 * GIB),
        ("4GB", PI8, 4 * GIB),
        ("500m", PI8, 500_000_000),
        ("50%", PI8, int(3.8125 * GIB)),  # 3.85, rounded down to 64 MiB
        ("50%", PI4, int(1.8125 * GIB)),
        ("1073741824", PI4, GIB),
        ("1k", PI4, 1000),
        ("1", PI4, 1),
        ("4864mb", PI8, 4864 << 20),  # all there is
        ("33%", PI8, 2560 << 20),  # 2602
    ],
)
def test_maxmemory(wanted: str, total: int, amount: int) -> None:
    assert maxmemory(wanted, total) == amount


@pytest.mark.parametrize(
    ("wanted", "total", "sentence"),
    [
        ("4gb", PI4, "of 3.7 GiB of RAM, Redis can have 2176mb at most"),
        ("90%", PI8, "of 7.7 GiB of RAM, Redis can have 4864mb at most"),
        ("50%", PI1, "of 0.9 GiB of RAM, Redis can have 256mb at most"),
        ("0", PI8, "does not fit"),  # to Redis that is "no limit"
        ("0%", PI8, "does not fit"),
    ],
)
def test_maxmemory_that_does_not_fit(wanted: str, total: int, sentence: str) -> None:
    with pytest.raises(DeployError) as error:
        maxmemory(wanted, total)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


SAID = [
    "ours /etc/redis/redis.conf",
    "foreign /etc/redis/users.acl",
    "data 3145728",
    "room 2097152",
    "asleep valkey-server.service",
]


def test_what_is_said_of_another_redis() -> None:
    state = parse(SAID)
    assert (state.ours, state.foreign) == (True, ("/etc/redis/users.acl",))
    assert (state.data, state.room) == (3 << 20, 2 << 20)
    assert state.asleep == ("valkey-server.service",)
    assert parse([]) == RedisState()


def test_what_can_not_be_kept_is_one_sentence() -> None:
    assert crowded(parse(SAID)) == [
        "what is in /var/lib/redis (3 MiB) is to be kept below /var/lib/okome/replaced, and there is room for"
        " 2 MiB: make room, or move it away"
    ]


@pytest.mark.parametrize(
    ("said", "sentences"),
    [
        ([], 0),
        (["data 5"], 0),  # is renamed, wherever the room is
        (["room 5"], 0),
        (["data 5", "room 5"], 0),
        (["data 6", "room 5"], 1),
    ],
)
def test_a_copy_that_does_not_fit_is_in_the_way(said: list[str], sentences: int) -> None:
    assert len(crowded(parse(said))) == sentences


def test_it_listens_on_loopback_and_for_the_lan() -> None:
    loopback, lan = sockets({"address": "192.168.86.19", "redis_port": 7000})
    assert loopback == Socket("Redis", UNIT, "127.0.0.1", 7000, "redis_port")
    assert lan == Socket("Redis", UNIT, "192.168.86.19", 7000, "redis_port")


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ([], None),
        (["ours /etc/redis/redis.conf"], None),
        (
            ["ours /etc/redis/redis.conf", "data 5"],
            None,
        ),  # the administrator's own dump: kept at the next start
        (["data 0"], "/var/lib/redis is"),
        (["foreign /etc/redis/redis.conf"], "/etc/redis/redis.conf is"),
        (["foreign /etc/redis/redis.conf", "data 5"], "/etc/redis/redis.conf and /var/lib/redis are"),
        (["ours /etc/redis/redis.conf", "foreign /etc/redis/users.acl"], "/etc/redis/users.acl is"),
    ],
)
def test_first_contact_says_what_gives_way(said: list[str], gone: str | None) -> None:
    sentence = gone and f"another Redis gives way; {gone} kept below /var/lib/okome/replaced"
    assert first_contact(parse(said)) == sentence


def test_what_does_not_fit_is_said_with_all_its_numbers() -> None:
    assert unfit("4865mb", PI8) == [
        "redis_maxmemory = '4865mb' does not fit: of 7.7 GiB of RAM, Redis can have 4864mb at most, with 1.5 times"
        " as much for fragmentation and 512 MiB for the rest of the node"
    ]
    assert "Redis can have 0mb at most" in unfit("1", 600 << 20)[0]
    assert unfit("4gb", PI8) == []


def test_a_look_asks_for_the_memory_and_for_another_redis_and_says_what_is_wrong_with_both() -> None:
    one = look({"redis_maxmemory": "4gb", "redis_port": 7000})
    memory, other = one.questions
    assert (memory.fact, other.fact) == (MemoryTotal, Redis)
    assert memory == Question(MemoryTotal)
    assert other == Question(Redis, ASKED)
    assert ASKED == {
        "files": ("/etc/redis/redis.conf", "/etc/redis/users.acl"),
        "mark": "# Managed by the okome repository",
        "beside": "/var/lib/okome",
    }
    assert one.findings(PI8, RedisState()) == []
    small, full, later = one.findings(PI4, parse(["data 5", "room 4", "asleep valkey-server.service"]))
    assert small.startswith("redis_maxmemory = '4gb' does not fit")
    assert full.startswith("what is in /var/lib/redis (0 MiB) is to be kept below")
    assert later == (
        "valkey-server.service is enabled and does not run now: at the next boot it may have port 7000 before Redis:"
        " `systemctl disable valkey-server.service`"
    )


def test_the_configuration_holds_what_the_node_and_the_passwords_give() -> None:
    config = configuration("4gb", PI8, {"okome": "a", "exporter": "b"})
    assert (config.files, config.check) == (FILES, "redis")
    assert config.values == {
        "maxmemory": 4 * GIB,
        "okome_sha256": hashlib.sha256(b"a").hexdigest(),
        "exporter_sha256": hashlib.sha256(b"b").hexdigest(),
    }


def redis_user() -> bool:
    try:
        return bool(pwd.getpwnam("redis"))
    except KeyError:
        return False


# redis-tools is enough: Debian's redis-server is its redis-check-rdb, which goes by the name it is called by.
SERVER = shutil.which("redis-server") or shutil.which("redis-check-rdb")
needs_redis = pytest.mark.skipif(
    os.geteuid() != 0 or not SERVER or not redis_user(),
    reason="needs root and Debian's redis-tools (`make tools`)",
)
DATA = runpy.run_path("group_data/backends.py") | {
    "address": "127.0.0.2",
    "maxmemory": 64 << 20,
    "okome_sha256": hashlib.sha256(b"of okome").hexdigest(),
    "exporter_sha256": hashlib.sha256(b"of exporter").hexdigest(),
}


@pytest.fixture
def etc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """redis.conf and users.acl, where user redis can read them (pytest's own folders are its user's alone)."""
    with tempfile.TemporaryDirectory(prefix="okome-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "bin/redis-server").symlink_to(str(SERVER))
        monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        for file in ("redis.conf", "users.acl"):
            (folder / file).write_bytes(render(ConfigFile(f"/etc/redis/{file}"), DATA, TEMPLATES))
            shutil.chown(folder / file, "redis", "redis")
        yield folder


def check(etc: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", CHECKERS["redis"], "check", etc / "redis.conf", etc / "users.acl"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_redis
def test_the_checker_agrees_with_our_files(etc: Path) -> None:
    answer = check(etc)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@needs_redis
@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("redis.conf", "bogus yes", ">>> 'bogus yes'"),
        ("redis.conf", "maxmemory plenty", ">>> 'maxmemory plenty'"),
        ("users.acl", "user other +nonsuch", "Aborting Redis startup because of ACL errors: /"),
        ("users.acl", "user okome on", "Duplicate user 'okome' found on line 7"),
        ("users.acl", "usr x", "users.acl:7"),
    ],
)
def test_the_checker_refuses_in_the_servers_own_words(etc: Path, file: str, line: str, words: str) -> None:
    with (etc / file).open("a") as opened:
        opened.write(f"{line}\n")
    answer = check(etc)
    assert answer.returncode == 1
    assert words in answer.stdout
    assert len(answer.stdout.strip().splitlines()) <= 4
    assert file == "redis.conf" or "Duplicate" in words or f"{etc}/users.acl:7" in answer.stdout


@needs_redis
def test_the_checker_refuses_what_user_redis_can_not_read(etc: Path) -> None:
    shutil.chown(etc / "redis.conf", "root", "root")
    (etc / "redis.conf").chmod(0o600)
    answer = check(etc)
    assert answer.returncode == 1
    assert "Permission denied" in answer.stdout


def prepare(etc: Path) -> None:
    """redis_prepare.py, with its three folders below a temporary one."""
    (etc / "lib").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, here in (("USERS", etc / "users.acl"), ("DATA", etc / "lib"), ("RUN", etc / "run")):
            patch.setattr(redis_prepare, name, here)
        assert redis_prepare.main(etc / "replaced") == 0


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


@pytest.fixture
def server(etc: Path) -> Iterator[Path]:
    """The real server with our files; its socket."""
    prepare(etc)
    with (etc / "log").open("wb") as log:
        options = (
            f"--port 0 --unixsocket {etc}/s --dir {etc}/lib --aclfile {etc}/run/users.acl --daemonize no"
        )
        process = subprocess.Popen(
            ["redis-server", etc / "redis.conf", *options.split(), "--supervised", "no", "--pidfile", ""],
            stdout=log,
        )
    try:
        deadline = time.monotonic() + 60
        while not listens(etc / "s"):
            assert process.poll() is None, (etc / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield etc / "s"
    finally:
        process.kill()
        process.wait(timeout=20)


def client(path: Path, user: str | None = None, password: str = "") -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(path),
        username=user,
        password=password or None,
        protocol=2,
        retry=Retry(NoBackoff(), 0),  # redis-py would retry a wrong password for seconds
    )


def say(who: redis.Redis, *words: str) -> object:
    return who.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py's own


@needs_redis
def test_each_user_may_do_its_own_and_nothing_else(server: Path) -> None:
    nobody = client(server)
    for command in ("PING", "INFO", "HELLO"):
        with pytest.raises(redis.AuthenticationError):
            say(nobody, command)
    with pytest.raises(redis.AuthenticationError):
        client(server, "okome", "of exporter").ping()

    okome = client(server, "okome", "of okome")
    assert okome.set("okome:a", "1", px=60_000)
    assert okome.eval("return redis.call('get', KEYS[1])", 1, "okome:a") == b"1"
    assert okome.publish("okome:wake", "x") == 0
    exporter = client(server, "exporter", "of exporter")
    info = exporter.info()
    assert isinstance(info, dict)
    assert info["maxmemory"] == 64 << 20
    assert info["maxmemory_policy"] == "allkeys-lru"
    assert exporter.slowlog_len() == 0

    denied = {
        okome: [
            ("GET", "other:a"),
            ("SET", "a", "1"),
            ("EVAL", "return redis.call('get', 'other:a')", "1", "okome:a"),
            ("EVAL", "return redis.call('flushall')", "0"),
            ("PUBLISH", "other", "x"),
            ("KEYS", "okome:*"),
            ("SCAN", "0"),
            ("FLUSHALL",),
            ("FLUSHDB",),
            ("CONFIG", "GET", "*"),
            ("SHUTDOWN", "NOSAVE"),
            ("SAVE",),
            ("BGSAVE",),
            ("REPLICAOF", "192.0.2.1", "6379"),
            ("MONITOR",),
            ("CLIENT", "LIST"),
            ("ACL", "LIST"),
            ("MIGRATE", "192.0.2.1", "6379", "okome:a", "0", "1"),
        ],
        exporter: [
            ("GET", "okome:a"),
            ("SET", "okome:a", "2"),
            ("CONFIG", "GET", "*"),
            ("CLIENT", "LIST"),
            ("SCAN", "0"),
        ],
    }
    for who, commands in denied.items():
        for words in commands:
            with pytest.raises(redis.ResponseError, match=r"permission|executing the script can't"):
                say(who, *words)
    assert okome.get("okome:a") == b"1"


@needs_redis
def test_the_administrator_finds_a_cache_and_nothing_else(server: Path) -> None:
    admin = client(server, "admin", (server.parent / "run/admin").read_text())
    settings = admin.config_get("*")
    assert isinstance(settings, dict)
    wanted = {
        "save": "",
        "appendonly": "no",
        "stop-writes-on-bgsave-error": "no",
        "maxmemory": str(64 << 20),
        "maxmemory-policy": "allkeys-lru",
        "maxmemory-clients": "10%",
        "lazyfree-lazy-eviction": "yes",
        "lazyfree-lazy-expire": "yes",
        "lazyfree-lazy-server-del": "yes",
        "lazyfree-lazy-user-del": "yes",
        "lazyfree-lazy-user-flush": "yes",
        "protected-mode": "yes",
        "bind": "127.0.0.1 127.0.0.2",
        "logfile": "",
    }
    assert {key: settings[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("active", "stops"),
    [
        ("active", True),
        ("activating", True),
        ("deactivating", True),  # it may be unable to save, and go on
        ("reloading", True),
        ("inactive", False),
        ("failed", False),
    ],
)
def test_another_redis_is_stopped_unless_none_runs(active: str, stops: bool) -> None:
    found = stopping(UnitState("redis-server.service", "loaded", active, "enabled", need_daemon_reload=False))
    assert [one.get_raw_value() for one in found] == (
        [f"sh -c {shlex.quote(STOP)} sh redis-server.service 600"] if stops else []
    )
