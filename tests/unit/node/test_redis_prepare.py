"""What Redis starts with: an empty folder, nothing of anybody's lost, and an administrator that root alone knows."""

import errno
import getpass
import hashlib
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from node import redis_prepare
from node.redis_prepare import clear, copy, free, users

ACL = "# Managed\nuser default off\n# a comment\nuser okome on #abc ~okome:*\n"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own, whose user redis is this one; the folder that is /var/lib/okome there exists."""
    monkeypatch.setattr(redis_prepare, "OWNER", getpass.getuser())
    me = getpass.getuser()

    def chown(path: Path, user: str, group: str) -> None:
        assert (user, group) == (me, me)
        os.chown(path, os.getuid(), os.getgid())

    monkeypatch.setattr("shutil.chown", chown)
    for name in ("USERS", "DATA", "RUN"):
        here = tmp_path / getattr(redis_prepare, name).relative_to("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(redis_prepare, name, here)
    redis_prepare.USERS.write_text(ACL)
    redis_prepare.DATA.mkdir()
    (tmp_path / "var/lib/okome").mkdir()
    return tmp_path


def fill(data: Path) -> None:
    (data / "dump.rdb").write_text("dump")
    (data / "appendonlydir").mkdir()
    (data / "appendonlydir/x.aof").write_text("aof")


def kept(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


EVERYTHING = {"dump.rdb": "dump", "appendonlydir/x.aof": "aof"}


def test_the_administrator_is_new_at_every_start_and_known_to_root_alone(node: Path) -> None:
    replaced, run = node / "var/lib/okome/replaced", redis_prepare.RUN
    seen = set()
    for _ in range(2):
        assert redis_prepare.main(replaced) == 0
        password, acl = (run / "admin").read_text(), (run / "users.acl").read_text()
        assert len(password) == 64
        assert acl == users(ACL, password)
        assert password not in acl
        seen.add(password)
    assert len(seen) == 2
    modes = {path.name: path.stat().st_mode & 0o777 for path in (run, *run.iterdir())}
    assert modes == {"redis-acl": 0o750, "admin": 0o600, "users.acl": 0o640}
    gid = pwd.getpwuid(os.getuid()).pw_gid  # of the user redis, see the fixture
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (run, *run.iterdir())} == {
        (os.getuid(), gid)
    }
    assert not replaced.exists()


def test_users_are_ours_without_comments_and_the_administrator() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    assert users(ACL, "secret") == (
        f"user default off\nuser okome on #abc ~okome:*\nuser admin on #{digest} ~* &* +@all\n"
    )


def test_data_that_is_there_is_kept_by_its_whole_path_and_said(
    node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced, data = node / "var/lib/okome/replaced", redis_prepare.DATA
    where = replaced / data.relative_to("/")
    for number in range(3):
        fill(data)
        assert redis_prepare.main(replaced) == 0
        to = where.with_name(f"redis.~{number}~") if number else where
        assert capsys.readouterr().out.endswith(f"it is kept in {to}\n")
        assert kept(to) == EVERYTHING
        assert list(data.iterdir()) == []
        assert data.stat().st_mode & 0o777 == 0o750
    assert replaced.stat().st_mode & 0o777 == 0o700
    redis_prepare.main(replaced)
    assert capsys.readouterr().out == ""


def test_a_power_cut_between_the_two_steps_is_made_good(node: Path) -> None:
    redis_prepare.DATA.rmdir()
    assert clear(redis_prepare.DATA, node / "var/lib/okome/replaced") is None
    assert redis_prepare.DATA.stat().st_mode & 0o777 == 0o750


def test_a_folder_that_leads_elsewhere_goes_as_it_is(node: Path) -> None:
    disk = node / "disk"
    disk.mkdir()
    fill(disk)
    redis_prepare.DATA.rmdir()
    redis_prepare.DATA.symlink_to(disk)
    to = clear(redis_prepare.DATA, node / "var/lib/okome/replaced")
    assert to is not None
    assert to.is_symlink()
    assert kept(disk) == EVERYTHING
    assert not redis_prepare.DATA.is_symlink()
    assert list(redis_prepare.DATA.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EBUSY])
def test_a_disk_of_its_own_is_copied_and_then_emptied(
    node: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A mount point can't be renamed. The copy that a power cut left half is not taken for one."""
    data, plain = redis_prepare.DATA, Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == data:
            raise OSError(error, os.strerror(error))
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    fill(data)
    (data / "latest").symlink_to("appendonlydir")
    half = (node / "var/lib/okome/replaced" / data.relative_to("/")).with_name(".redis.new")
    half.mkdir(parents=True)
    (half / "dump.rdb").write_text("du")
    to = clear(data, node / "var/lib/okome/replaced")
    assert to is not None
    assert kept(to) == EVERYTHING
    assert list(data.iterdir()) == []
    assert not half.exists()


def test_any_other_refusal_of_the_rename_ends_it(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, "no")

    fill(redis_prepare.DATA)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError):
        clear(redis_prepare.DATA, node / "var/lib/okome/replaced")
    assert kept(redis_prepare.DATA) == EVERYTHING


def test_without_room_nothing_is_copied_and_nothing_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, to = tmp_path / "redis", tmp_path / "replaced"
    data.mkdir()
    (data / "dump.rdb").write_bytes(b"x" * 5_000_000)
    used = (data / "dump.rdb").stat().st_blocks * 512
    for free_blocks, enough in ((used // 4096 - 1, False), (used // 4096, True)):
        # What root alone may still write does not count.
        room = os.statvfs_result((4096, 4096, 10**6, 10**6, free_blocks, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _, room=room: room)
        if enough:
            copy(data, to)
            assert (to / "dump.rdb").stat().st_size == 5_000_000
        else:
            with pytest.raises(
                OSError, match=rf"{used >> 20} MiB in {data} can't be kept in {tmp_path}: no room"
            ) as error:
                copy(data, to)
            assert error.value.errno == errno.ENOSPC
            assert [file.name for file in tmp_path.iterdir()] == ["redis"]
            assert (data / "dump.rdb").stat().st_size == 5_000_000


def test_what_is_kept_is_roots_alone(node: Path) -> None:
    umask = os.umask(0)
    try:
        fill(redis_prepare.DATA)
        assert clear(redis_prepare.DATA, node / "var/lib/okome/replaced")
    finally:
        os.umask(umask)
    assert (node / "var/lib/okome/replaced").stat().st_mode & 0o777 == 0o700


def test_a_copy_that_cp_can_not_make_empties_nothing(tmp_path: Path) -> None:
    data = tmp_path / "redis"
    data.mkdir()
    fill(data)
    (tmp_path / ".replaced.new").write_text("in the way")
    with pytest.raises(subprocess.CalledProcessError):
        copy(data, tmp_path / "replaced")
    assert kept(data) == EVERYTHING


def test_a_name_is_free_also_beside_a_symlink_to_nowhere(tmp_path: Path) -> None:
    assert free(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").symlink_to("nowhere")
    (tmp_path / "a.~1~").touch()
    assert free(tmp_path / "a") == tmp_path / "a.~2~"
