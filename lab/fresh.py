"""`make fresh`: the two commands of the README on a bare Debian, as a newcomer has it.

A minimal tree of each suite (git, make, python3, ca-certificates) gets the last commit and nothing of this machine but
its name server, its proxy and the certificates that it trusts beyond Debian's. It is entered with mount, process and
IPC namespaces of its own and empty caches; the network stays the machine's, for the packages. The tree is built anew
and removed at the end, whatever happens.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab import LabError, lan, machine, tree
from lab.operator import REPOSITORY

PACKAGES = ("git", "make", "python3", "ca-certificates")
COMMANDS = ("demo", "test")
# How this machine reaches the world, where that is said in the environment.
WAY_OUT = re.compile(
    r"(https?|no)_proxy|SSL_CERT_FILE|PIP_(CERT|INDEX_URL)|UV_(DEFAULT_INDEX|INDEX_URL)", re.IGNORECASE
)
CERTIFICATES = Path("/usr/local/share/ca-certificates")
# Becomes the tree ($1) and runs what follows. Not chroot: systemd-nspawn wants a root that is a mount.
ENTER = """
set -e
tree=$1; shift
mount --make-rprivate /
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 fresh run
mkdir -p mnt/before
pivot_root . mnt/before
umount --lazy /mnt/before
cd /root/okome
"$@"  # no exec: as process 1 of its namespace, the shell takes note of what ends
"""


@contextlib.contextmanager
def newcomer(suite: str) -> Iterator[Path]:
    """The tree of a suite with a clean checkout in /root/okome."""
    root = machine.cache_dir() / "fresh" / machine.name() / suite
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    log = root.with_suffix(".log")
    try:
        print(f"fresh: a bare {suite}", flush=True)
        tree.bootstrap(suite, PACKAGES, root, log)
        checkout = root / "root/okome"
        # Also from a checkout that is somebody else's than root's.
        trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        clone = ["git", "clone", "--quiet", "--depth=1", f"file://{REPOSITORY}", str(checkout)]
        machine.run(clone, timeout=600, env=os.environ | trust)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        if CERTIFICATES.is_dir():
            shutil.copytree(CERTIFICATES, root / CERTIFICATES.relative_to("/"), dirs_exist_ok=True)
            machine.run(["chroot", root, "update-ca-certificates"])
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        log.unlink(missing_ok=True)
        for parent in (root.parent, root.parent.parent):
            with contextlib.suppress(OSError):  # another one's
                parent.rmdir()


def enter(root: Path, *command: str) -> int:
    """Run a command in the tree; its exit status. Its processes end with it."""
    kept = {key: value for key, value in os.environ.items() if WAY_OUT.fullmatch(key)}
    environment = kept | {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "OKOME_LAB": machine.name(),
    }
    alone = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
    run = subprocess.Popen(
        [*alone, "sh", "-c", ENTER, "sh", root, *command], env=environment, stdin=subprocess.DEVNULL
    )
    try:
        return run.wait()
    finally:
        run.kill()
        run.wait()


def swept() -> None:
    """What a run that died in there has left outside of its tree, of labs whose names are made of ours."""
    for group in machine.cgroups("."):
        for left in {*group.glob(f"okome-{machine.name()}*"), *group.glob(f"okome-?{machine.name()}*")}:
            machine.remove_cgroups(left.name)
    for table in re.findall(rf"\bokome_\w?{machine.name()}\w*", machine.run(["nft", "list", "tables"])):
        lan.close_way_out(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.fresh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", action="append", choices=tree.SUITES, help="default: all")
    parser.add_argument("targets", nargs="*", default=COMMANDS, help="of make, in turn; default: demo, test")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    try:
        machine.require()
        for suite in options.suite or tree.SUITES:
            os.environ["OKOME_LAB"] = f"f{suite[:2]}"
            try:
                with newcomer(suite) as root:
                    for target in options.targets:
                        print(f"\nfresh: make {target} on a bare {suite}", flush=True)
                        started = time.monotonic()
                        status = enter(root, "make", target)
                        enter(root, "make", "down")
                        took = f"{time.monotonic() - started:.0f} s"
                        print(f"fresh: make {target} on a bare {suite}: {status} after {took}")
                        if status:
                            failed.append(f"make {target} on {suite}")
            finally:
                swept()
    except LabError as error:
        print(f"fresh: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"fresh: failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
