#!/usr/bin/env python3
"""Makes ready what Redis starts with: an empty data folder, and the users with an administrator of this start.

    redis_prepare.py /var/lib/okome/replaced

Runs as root before every start of Redis: redis-server.service.d/zz-okome.conf. Standard library only.
"""

import errno
import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

USERS = Path("/etc/redis/users.acl")
DATA = Path("/var/lib/redis")
RUN = Path("/run/redis-acl")  # in RAM
OWNER = "redis"


def users(text: str, password: str) -> str:
    """The users as Redis reads them: without comments, which it does not know, and with the administrator."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    digest = hashlib.sha256(password.encode()).hexdigest()
    return "\n".join([*lines, f"user admin on #{digest} ~* &* +@all"]) + "\n"


def place(path: Path, text: str, mode: int, gid: int) -> None:
    """Group and mode are set before the first byte lands; whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchown(file.fileno(), -1, gid)
        os.fchmod(file.fileno(), mode)
        file.write(text)
    new.replace(path)


def free(path: Path) -> Path:
    """The path itself, or where something stands already, the first that is free of path.~1~, path.~2~ …"""
    candidate, number = path, 0
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.~{number}~")
    return candidate


def copy(data: Path, to: Path) -> None:
    """For a folder that can't be renamed, because a disk of its own is mounted there. OSError without room.

    The copy gets its name once it is on the disk whole; only then the folder is emptied.
    """
    used = sum(file.lstat().st_blocks * 512 for file in data.rglob("*"))
    room = os.statvfs(to.parent)
    if used > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, f"{used >> 20} MiB in {data} can't be kept in {to.parent}: no room")
    new = to.with_name(f".{to.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a copy that was cut short
    subprocess.run(["/bin/cp", "-a", "--", data, new], check=True)
    os.sync()
    new.rename(to)
    os.sync()
    for entry in data.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def clear(data: Path, replaced: Path) -> Path | None:
    """Leaves `data` an empty folder. What was in it is not ours, which writes nothing there, and would be loaded:
    it goes below `replaced`, by its whole path. Returns where to, or None if there was nothing.

    A symlink goes as it is; what it leads to stays where it is.
    """
    kept = None
    if os.path.lexists(data) and not (data.is_dir() and not any(data.iterdir())):
        kept = free(replaced / data.relative_to("/"))
        replaced.mkdir(mode=0o700, exist_ok=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            data.rename(kept)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EBUSY):
                raise
            copy(data, kept)
    # Also where the power was cut between the two steps.
    data.mkdir(exist_ok=True)
    data.chmod(0o750)
    shutil.chown(data, OWNER, OWNER)
    if kept:
        os.sync()
    return kept


def main(replaced: Path) -> int:
    os.umask(0o077)
    kept = clear(DATA, replaced)
    if kept:
        print(f"what was in {DATA} is not of this configuration: it is kept in {kept}")
    # The administrator. Redis can't tie a user to an address, so it is the password that never leaves the node: made
    # here, new at every start, kept in RAM, and read by root alone (redis-admin). So there is none to use on the LAN.
    gid, password = pwd.getpwnam(OWNER).pw_gid, secrets.token_hex(32)
    RUN.mkdir(exist_ok=True)
    os.chown(RUN, -1, gid)
    RUN.chmod(0o750)
    place(RUN / "admin", password, 0o600, os.getgid())
    place(RUN / "users.acl", users(USERS.read_text(), password), 0o640, gid)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
