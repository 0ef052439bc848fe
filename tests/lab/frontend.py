"""CN00 in the lab as the checks see it: a client on the LAN, the switches of the test origin, root of the node."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import origin
from lab.client import STRANGER, Client
from lab.origin import chunk
from operations.services.nginx import ACCESS_LOG
from operations.services.probe import DOWN_FLAG, FULL_FLAG
from tests.lab.conftest import NAME, Lab

NODE, DEPLOY = "cn00", "deploys/cn00.py"
NAMESPACE = Path(f"/run/netns/okome-{NAME}")
CONTROL = Path(f"/var/lib/okome-lab/{NAME}/origin.sock")


class Stream:
    """A stream of `seconds`, read in the background; every byte of it is known beforehand.

    With a `hold` its last chunk waits until the origin is told to release that name: whatever happened before has
    happened to a stream.
    """

    def __init__(self, client: Client, seconds: float, hold: str = "") -> None:
        self.chunks = int(seconds * 10)
        self.hold = hold
        self.path = f"/stream?chunks={self.chunks}&interval=0.1&hold={hold}"
        self.received = b""
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._read, args=(client,), daemon=True)
        self.thread.start()
        limit = time.monotonic() + 60
        while not self.received:
            assert time.monotonic() < limit, f"the stream did not begin: {self.failure}"
            time.sleep(0.05)

    def _read(self, client: Client) -> None:
        try:
            with client.open("GET", self.path, timeout=600) as response:
                while data := response.read1(65536):
                    self.received += data
        except Exception as error:  # noqa: BLE001 - whatever it was, the test says so
            self.failure = error

    def assert_goes_on(self) -> None:
        assert self.thread.is_alive(), self.failure or "the stream is over"

    def assert_whole(self) -> None:
        """Waits for its end, within the time it takes and a minute."""
        self.thread.join(self.chunks / 10 + 60)
        assert not self.thread.is_alive()
        assert self.failure is None
        assert self.received == b"".join(chunk(number, events=True) for number in range(self.chunks))


class Frontend:
    """What tests/nginx/checks ask for, on the booted node."""

    client_address = "192.168.86.1"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab("origin", "up")
        lab("run", "--", "ip", "address", "replace", f"{STRANGER}/32", "dev", "br0")
        self.client = Client(NAMESPACE)

    def run(self, script: str) -> str:
        """As root of the node."""
        return self.lab.execute("sh", "-c", script, node=NODE)

    def origin(self, **words: Any) -> dict[str, Any]:
        return origin.tell(CONTROL, **words)

    def reload(self) -> None:
        self.run("systemctl reload nginx")

    def set_flag(self, down: bool) -> None:
        self.run(f"touch {DOWN_FLAG}" if down else f"rm -f {DOWN_FLAG}")

    def set_full(self, full: bool) -> None:
        self.run(f"touch {FULL_FLAG}" if full else f"rm -f {FULL_FLAG}")

    def log(self) -> str:
        return self.run(f"cat {ACCESS_LOG}")

    def gate(self) -> bool:
        """Whether the frontend takes its upstream for up."""
        return bool(json.loads(self.client.ask("/okome/health").body)["upstream_ok"])

    def until_it_answers(self) -> None:
        """`nginx -t`, which systemd runs before nginx, listens for a moment, too, and answers nobody."""
        limit = time.monotonic() + 30
        while True:
            try:
                self.gate()
            except OSError:
                assert time.monotonic() < limit
                time.sleep(0.05)
            else:
                return

    def until_gate(self, up: bool) -> None:
        limit = time.monotonic() + 60
        while self.gate() != up:
            assert time.monotonic() < limit
            time.sleep(0.02)

    @contextmanager
    def without_probe(self) -> Iterator[None]:
        """The gate is the test's own."""
        self.run(f"systemctl stop okome-probe && mkdir -p {Path(DOWN_FLAG).parent}")
        try:
            yield
        finally:
            self.origin(mode="up")
            self.run(f"rm -rf {Path(DOWN_FLAG).parent} && systemctl start okome-probe")


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="clients on the lab's LAN need root: run pytest with sudo"
)
