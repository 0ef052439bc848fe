"""What apt says of repositories, and who is waited for."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from facts.packages import FRONTEND, WAIT, Packages, PackageState
from operations.primitives.packages import complaints, reached

# Recorded on a node of the lab.
UNSIGNED = """Get:1 file:/srv/third ./ InRelease
Ign:1 file:/srv/third ./ InRelease
Get:2 file:/srv/third ./ Release [1200 B]
Get:2 file:/srv/third ./ Release [1200 B]
Hit:4 http://deb.debian.org/debian bookworm InRelease
Err:3 file:/srv/third ./ Release.gpg
E: The repository 'file:/srv/third ./ Release' is not signed.
""".splitlines()
AWAY = """Err:1 http://deb.debian.org/debian bookworm InRelease
  Could not connect to deb.debian.org:80
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect
""".splitlines()


def test_a_repository_that_is_not_signed() -> None:
    assert complaints(UNSIGNED) == ["The repository 'file:/srv/third ./ Release' is not signed"]
    assert reached(UNSIGNED)
    assert not reached(UNSIGNED[:4])


def test_all_repositories_away() -> None:
    assert complaints(AWAY) == [
        "Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect"
    ]
    assert not reached(AWAY)


def test_a_lock_that_is_held_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    wait = [sys.executable, "-c", WAIT, "30", str(tmp_path / "free"), str(lock)]
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        with subprocess.Popen(wait) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.7)
            fcntl.lockf(held, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0
        fcntl.lockf(held, fcntl.LOCK_EX)
        late = subprocess.run(
            [*wait[:3], "0", *wait[4:]], capture_output=True, text=True, check=False, timeout=60
        )
    assert (late.returncode, late.stderr) == (1, f"another apt or dpkg has held {lock} for 0 s\n")


# dpkg as it is while another one configures logrotate: it says so until that one has ended.
DPKG = """#!/bin/sh
test -e BUSY && echo 'The following packages are only half configured'
rm -f BUSY
"""


@pytest.mark.parametrize("ends", [True, False])
def test_a_dpkg_at_work_is_no_broken_one(tmp_path: Path, ends: bool) -> None:
    (tmp_path / "updates").mkdir()
    busy = tmp_path / "busy"
    busy.touch()
    dpkg = tmp_path / "dpkg"
    program = DPKG.replace("BUSY", str(busy))
    dpkg.write_text(program if ends else program.replace("rm -f", "touch"))
    dpkg.chmod(0o755)
    command = Packages().command(names=("nonsuch",), seconds=0)
    command = command.replace("/var/lib/dpkg/updates", str(tmp_path / "updates"))
    command = command.replace(FRONTEND, str(tmp_path / "lock"))
    done = subprocess.run(
        ["sh", "-c", f"PATH={tmp_path}:$PATH; {command}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Packages().process(done.stdout.splitlines()) == PackageState(frozenset(), broken=not ends)
