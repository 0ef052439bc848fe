"""The question that finds another Redis, asked of this machine: its files are real."""

import os
import subprocess
from pathlib import Path

import pytest

from facts import redis
from facts.answer import marked
from facts.redis import Redis, RedisState

MARK = "# Managed by"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(redis, "DATA", str(tmp_path / "lib/redis"))
    (tmp_path / "lib/redis").mkdir(parents=True)
    (tmp_path / "lib/okome").mkdir()
    return tmp_path


def ask(node: Path) -> RedisState:
    fact = Redis()
    files = (str(node / "redis.conf"), str(node / "users.acl"))
    command = fact.command(files=files, mark=MARK, beside=str(node / "lib/okome"))
    assert marked("").split("\n")[1] in command  # a greeting is none of its lines
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    return fact.process(said.stdout.splitlines())


def test_a_node_where_nothing_is(node: Path) -> None:
    assert ask(node) == RedisState()
    (node / "lib/redis").rmdir()
    assert ask(node) == RedisState()


def test_whose_the_files_are(node: Path) -> None:
    conf, acl = node / "redis.conf", node / "users.acl"
    conf.write_text(f"{MARK} us\n")
    assert ask(node) == RedisState(ours=True)
    acl.write_text("user default on nopass\n")
    assert ask(node) == RedisState(ours=True, foreign=(str(acl),))
    conf.write_text(f"\n{MARK} us\n")
    assert ask(node) == RedisState(foreign=(str(conf), str(acl)))
    acl.write_text(f"{MARK} us\n")
    assert ask(node) == RedisState(foreign=(str(conf),))
    assert redis.parse(["foreign /etc/a b"]).foreign == ("/etc/a b",)


def test_what_is_in_its_folder(node: Path) -> None:
    data = node / "lib/redis"
    (data / "dump.rdb").write_bytes(os.urandom(100_000))
    os.sync()
    found = ask(node)
    assert found.room is None
    assert found.data is not None
    assert 100_000 <= found.data < 200_000
    (data / "dump.rdb").unlink()
    (data / ".empty").touch()
    assert ask(node) == RedisState(data=0)


def test_a_folder_on_another_disk_has_to_be_copied_and_takes_room(node: Path) -> None:
    """/dev/shm is one; a symlink to it is renamed like any other."""
    data, elsewhere = node / "lib/redis", Path("/dev/shm")
    if elsewhere.stat().st_dev == node.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own here")
    data.rmdir()
    data.symlink_to(elsewhere)
    assert ask(node).room is None
    data.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis, "DATA", "/dev/shm")
        found = ask(node)
        (node / "lib/okome").rmdir()
        before_the_first = ask(node)
    room = os.statvfs(node)
    for state in (found, before_the_first):
        assert state.room is not None
        assert abs(state.room - room.f_bavail * room.f_frsize) < 1 << 30
