"""The health probe as a process, against the test origin; systemd's end of sd_notify is this test."""

import argparse
import asyncio
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.ports import free_port
from group_data import frontends
from lab import origin
from node import probe
from node.probe import JITTER, Health, has_room, status_of

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Running:
    """A probe, the origin it asks, and what it tells systemd."""

    flag: Path
    full_flag: Path
    cache: Path
    control: Path
    process: subprocess.Popen[str]
    said: queue.Queue[str]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.01)

    def origin_answers(self) -> bool:
        """Its control socket is there a moment before anybody listens on it."""
        try:
            origin.tell(self.control)
        except OSError:
            return False
        return True

    def message(self) -> str:
        return self.said.get(timeout=60)


def listen(systemd: socket.socket, said: "queue.Queue[str]") -> None:
    while message := systemd.recv(4096).decode():
        said.put(message)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port, control, flag = free_port(), tmp_path / "origin", tmp_path / "down"
    server = subprocess.Popen(
        [sys.executable, "-m", "lab.origin", "--listen", f"127.0.0.1:{port}", "--control", str(control)],
        cwd=ROOT,
    )
    flag.touch()  # left by one that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        said: queue.Queue[str] = queue.Queue()
        # As systemd does: a socket that nobody reads is full after ten messages, and the probe would wait.
        threading.Thread(target=listen, args=(systemd, said), daemon=True).start()
        process = subprocess.Popen(
            [sys.executable, "-I", str(ROOT / "node/probe.py"), "--url", f"http://127.0.0.1:{port}/health",
             "--flag", str(flag), "--interval", "0.02", "--timeout", "0.3", "--rise", "2", "--fall", "3",
             "--cache", str(tmp_path / "cache"), "--reserve", str(10**9), "--full-flag", str(tmp_path / "full")],
            env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert said.get(timeout=60).startswith("READY=1")
            yield Running(flag, tmp_path / "full", tmp_path / "cache", control, process, said)
        finally:
            for started in (process, server):
                started.kill()
                started.wait(60)
            systemd.shutdown(socket.SHUT_RD)  # ends the listener
            assert process.stdout
            process.stdout.close()


def test_starts_as_up_even_after_one_that_was_killed(running: Running) -> None:
    running.until(running.origin_answers)
    running.until(lambda: not running.flag.exists())


@pytest.mark.parametrize("mode", ["down", "hanging", "500", "503"])
def test_flag_follows_the_origin_both_ways(running: Running, mode: str) -> None:
    running.until(running.origin_answers)
    origin.tell(running.control, mode=mode)
    running.until(running.flag.exists)
    running.flag.unlink()  # by mistake
    running.until(running.flag.exists)
    origin.tell(running.control, mode="up")
    running.until(lambda: not running.flag.exists())
    assert "WATCHDOG=1" in running.message()


def test_a_hanging_origin_is_down_after_three_probes_not_before(running: Running) -> None:
    """Each probe tells systemd what it found."""
    running.until(running.origin_answers)
    while "STATUS=up: healthy" not in running.message():
        pass
    origin.tell(running.control, mode="hanging")
    verdicts: list[str] = []
    while not verdicts or verdicts[-1] != "down":
        state, _, failure = running.message().partition("STATUS=")[2].partition(": ")
        verdicts += [state] if failure.startswith("no answer") else []
    assert verdicts == ["up", "up", "down"]


def test_the_nodes_numbers_find_an_outage_within_a_second_and_forgive_a_busy_orchestrator() -> None:
    interval, timeout = frontends.probe_interval_s, frontends.probe_timeout_s
    assert frontends.probe_fall * (timeout + interval * (1 + JITTER)) < 0.9
    assert (
        frontends.probe_rise * interval * (1 + JITTER) + timeout < 0.9
    )  # one that hangs is waited for first
    assert frontends.probe_fall >= 2
    assert timeout > 0.25


def test_a_slow_answer_is_no_answer(running: Running) -> None:
    running.until(running.origin_answers)
    origin.tell(running.control, mode="slow:1")
    running.until(running.flag.exists)


def test_ending_takes_the_flag_away(running: Running) -> None:
    running.until(running.origin_answers)
    origin.tell(running.control, mode="down")
    running.until(running.flag.exists)
    running.process.terminate()
    assert running.process.wait(10) == 0
    assert not running.flag.exists()


def test_a_disk_without_room_is_flagged(running: Running) -> None:
    """No disk has the reserve that this probe was given; where there is no cache there is nothing to protect."""
    running.until(running.origin_answers)
    running.message()
    assert not running.full_flag.exists()
    running.cache.mkdir()
    running.until(running.full_flag.exists)
    running.cache.rmdir()
    running.until(lambda: not running.full_flag.exists())


def test_room(tmp_path: Path) -> None:
    assert has_room(tmp_path, 1)
    assert not has_room(tmp_path, 1 << 60)


def test_rise_and_fall() -> None:
    health = Health()
    seen = []
    for success in (0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1):
        health = health.after(bool(success), rise=2, fall=3)
        seen.append(health.up)
    assert seen == [True] * 5 + [False] * 4 + [True] * 2


def test_what_is_no_http_is_refused() -> None:
    assert status_of(b"HTTP/1.1 204 No Content\r\n\r\n") == 204
    for head in (b"SSH-2.0-OpenSSH 9\r\n\r\n", b"HTTP/1.1 ok fine\r\n\r\n", b"\r\n\r\n"):
        with pytest.raises(ValueError, match=r"."):
            status_of(head)


@pytest.mark.parametrize("interval", [0.25, 10.0])
def test_two_probes_do_not_keep_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """The pauses that two probes make, by the hundred; only the waiting is left out."""
    pauses: list[float] = []

    async def no_wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) % 100 == 0:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", no_wait)
    options = argparse.Namespace(
        url=urlsplit(f"http://127.0.0.1:{free_port()}/health"), timeout=1, rise=2, fall=3, interval=interval,
        flag=tmp_path / "down", cache=tmp_path, reserve=1, full_flag=tmp_path / "full",
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(probe.watch(options))
    assert len(set(pauses)) == 200
    assert min(pauses) >= 0.9 * interval
    assert max(pauses) <= 1.1 * interval
    # A spread of half the range: that a hundred even draws have less is one case in 10^28.
    for first in (0, 100):
        assert max(pauses[first : first + 100]) - min(pauses[first : first + 100]) > 0.1 * interval
