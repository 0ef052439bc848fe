"""nginx of both suites without a node: Debian's packages, unpacked, in a private network with real addresses.

The rendered templates land at their real paths, and nginx listens on its real port: nothing of the
configuration is changed for the test. Needs Linux, root and mmdebstrap.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from group_data import frontends
from lab import machine, origin
from lab.client import FRONTEND, ORCHESTRATOR, STRANGER, Client
from operations.primitives.config_set import rendered
from operations.services.nginx import ACCESS_LOG, nginx_config
from operations.services.probe import CACHE, DOWN_FLAG, FULL_FLAG

SUITES = ("bookworm", "trixie")
PACKAGES = "nginx,libnginx-mod-http-js,libc6,base-files,libcrypt1"
REPOSITORY = Path(__file__).parents[2]


def why_not() -> str:
    """Why this machine can't run nginx in a box; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "needs Linux: run it in a Linux VM"
    if os.geteuid() != 0:
        return "needs root for its private network: run it with sudo"
    if not shutil.which("mmdebstrap"):
        return "needs mmdebstrap: apt install mmdebstrap"
    return ""


@functools.cache
def tree(suite: str) -> Path:
    """The suite's nginx and what it needs, unpacked from Debian's packages (6 s); kept in the user's cache."""
    ready = machine.cache_dir() / "trees" / f"nginx-js-{suite}"
    ready.parent.mkdir(parents=True, exist_ok=True)
    with ready.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            with tempfile.TemporaryDirectory(dir=ready.parent) as folder:
                unpacked = Path(folder) / "tree"
                machine.run(
                    ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={PACKAGES}",
                     "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", '--aptopt=Acquire::Retries "3"',
                     suite, unpacked],
                    timeout=300,
                )  # fmt: skip
                unpacked.rename(ready)
    return ready


def make_certificate(path: Path) -> None:
    """A self-signed one and its key beside it, made by this machine's openssl."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "1", "-subj", "/CN=cn00", "-addext", "subjectAltName=DNS:cn00",
         "-out", path, "-keyout", path.with_suffix(".key")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


class Box:
    """A private network with a frontend at .20, and the test origin at .25:8000. Use as a context manager."""

    client_address = FRONTEND  # on loopback the two ends of a connection have one address

    def __init__(self, suite: str, **changed: Any) -> None:
        self.suite = suite
        self.data = {**vars(frontends), "address": FRONTEND, "lan_prefix_length": 24, **changed}
        contents = rendered(nginx_config(suite, "CN00", self.data), self.data)
        self.files = {path: text.decode() for path, text in contents.items() if text is not None}
        self.stack = contextlib.ExitStack()
        self.control = Path()
        self.nginx: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Box":
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="okome-box-")))
        self.control = self.folder / "origin.sock"
        inside = self.folder / "root"
        inside.mkdir()
        script = f"""
            set -e
            ip link set lo up
            for a in {FRONTEND}/24 {ORCHESTRATOR}/24 {STRANGER}/24; do ip address add $a dev lo; done
            mount -t tmpfs okome-box {inside}
            cd {inside}
            mkdir upper work root
            mount -t overlay okome-box -o lowerdir={tree(self.suite)},upperdir=upper,workdir=work root
            mount --rbind /dev root/dev
            mount -t proc proc root/proc
            echo ready
            exec sleep 900
        """
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE,
        )
        self.stack.callback(self.end, self.holder)
        assert self.holder.stdout
        if self.holder.stdout.readline() != b"ready\n":
            raise RuntimeError("the box did not come up")
        self.stack.callback(self.holder.stdout.close)
        self.root = Path(f"/proc/{self.holder.pid}/root{inside}/root")
        self.inside = inside / "root"
        (self.root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/false\n")
        (self.root / "etc/group").write_text("root:x:0:\nadm:x:4:\nwww-data:x:33:\n")
        for file in (CACHE, ACCESS_LOG):
            (self.root / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        self.flag = self.root / DOWN_FLAG.lstrip("/")
        self.flag.parent.mkdir(parents=True)
        for path in self.root.glob("usr/share/nginx/modules-available/*.conf"):
            (self.root / "etc/nginx/modules-enabled" / f"50-{path.name}").write_text(path.read_text())
        for path in self.root.glob("etc/nginx/sites-enabled/*"):
            path.unlink()
        self.lay(self.files)
        self.client = self.stack.enter_context(Client(Path(f"/proc/{self.holder.pid}/ns/net")))
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def lay(self, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            target = self.root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def command(self, *words: str) -> list[str]:
        """`words` as root inside. nsenter and chroot exec: the process started is the program itself."""
        inside = [
            "nsenter",
            f"--net=/proc/{self.holder.pid}/ns/net",
            f"--mount=/proc/{self.holder.pid}/ns/mnt",
        ]
        return [*inside, "chroot", str(self.inside), *words]

    def make_certificate(self) -> Path:
        """A self-signed one where `tls_certificate` says."""
        certificate: Path = self.root / self.data["tls_certificate"].lstrip("/")
        certificate.parent.mkdir(parents=True, exist_ok=True)
        make_certificate(certificate)
        return certificate

    def check(self) -> str:
        """What `nginx -t` prints, with " FAILED" in front if it exits with an error."""
        done = subprocess.run(
            self.command("/usr/sbin/nginx", "-t"), capture_output=True, text=True, timeout=30, check=False
        )
        return ("FAILED " if done.returncode else "") + done.stderr

    def start(self) -> None:
        """Origin and nginx, ready to answer."""
        enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", sys.executable, "-m", "lab.origin"]
        listen = ["--listen", f"{ORCHESTRATOR}:8000", "--control", str(self.control)]
        server = subprocess.Popen([*enter, *listen], cwd=REPOSITORY)
        self.stack.callback(self.end, server)
        self.start_nginx()
        self.client.wait_for(ORCHESTRATOR, 8000)

    def start_nginx(self) -> None:
        self.nginx = subprocess.Popen(self.command("/usr/sbin/nginx", "-g", "daemon off;"))
        self.stack.callback(self.end, self.nginx)
        self.client.wait_for(FRONTEND, 80)

    def reload(self) -> None:
        assert self.nginx
        self.nginx.send_signal(signal.SIGHUP)

    def set_flag(self, down: bool) -> None:
        """What the probe does."""
        if down:
            self.flag.touch()
        else:
            self.flag.unlink(missing_ok=True)

    def set_full(self, full: bool) -> None:
        """What the probe does when the cache's disk has no room."""
        if full:
            (self.root / FULL_FLAG.lstrip("/")).touch()
        else:
            (self.root / FULL_FLAG.lstrip("/")).unlink(missing_ok=True)

    def log(self) -> str:
        """The access log."""
        return (self.root / ACCESS_LOG.lstrip("/")).read_text()

    def origin(self, **words: Any) -> dict[str, Any]:
        return origin.tell(self.control, **words)

    def fresh(self) -> None:
        """Origin up and its counts at zero, gate open."""
        self.set_flag(down=False)
        self.set_full(full=False)
        self.origin(mode="up", reset=True)
