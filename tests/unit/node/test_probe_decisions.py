"""What the health probe takes for health and for room, and what it says and leaves behind; no process, no systemd."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from node import probe
from node.probe import HEAD_LIMIT, Health, has_room, notify, set_flag, status_of

OK = b"HTTP/1.1 200 OK\r\n\r\n"


@contextmanager
def origin(answer: bytes, *, hangs: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Answers one request, whatever it is, and closes (or says nothing more); its address, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in b"".join(asked):
                    asked.append(connection.recv(4096))
                connection.sendall(answer)
                if hangs:
                    connection.recv(1)  # until the probe has had enough

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        thread.join(20)


def asked_once(answer: bytes, *, path: str = "/health", seconds: float = 20, hangs: bool = False) -> str:
    with origin(answer, hangs=hangs) as (where, _):
        return asyncio.run(probe.probe(urlsplit(f"http://{where}{path}"), seconds))


@pytest.mark.parametrize("status", [200, 204, 299])
def test_health_is_any_success(status: int) -> None:
    assert asked_once(f"HTTP/1.1 {status} Fine\r\nX: y\r\n\r\nbody".encode()) == ""


@pytest.mark.parametrize("status", [199, 300, 302, 304, 404, 500, 503])
def test_nothing_else_is(status: int) -> None:
    """A redirect least of all: whatever answers there is not the orchestrator's health."""
    assert asked_once(f"HTTP/1.1 {status} Words\r\n\r\n".encode()) == f"status {status}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: y", "no complete answer: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT + b"\r\n\r\n", "no complete answer: "),
        (b"", "no complete answer: "),
    ],
)
def test_half_an_answer_is_none(answer: bytes, reason: str) -> None:
    assert asked_once(answer).startswith(reason)


def test_a_head_just_within_the_limit_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nX: "
    assert asked_once(head + b"y" * (HEAD_LIMIT - len(head)) + b"\r\n\r\n") == ""


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    assert asked_once(b"HTTP/1.1 200", seconds=0.05, hangs=True) == "no answer within 0.05 s"


def test_nobody_there_is_said_in_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = asyncio.run(probe.probe(urlsplit(f"http://127.0.0.1:{port}/health"), 20))
    assert "Connect call failed" in said

    async def speechless(_: object) -> int:
        raise ConnectionResetError

    monkeypatch.setattr(probe, "ask", speechless)
    assert asyncio.run(probe.probe(urlsplit("http://127.0.0.1/"), 20)) == "ConnectionResetError()"


@pytest.mark.parametrize(("path", "line"), [("/health", "GET /health HTTP/1.1"), ("", "GET / HTTP/1.1")])
def test_the_request(path: str, line: str) -> None:
    with origin(OK) as (where, asked):
        assert asyncio.run(probe.ask(urlsplit(f"http://{where}{path}"))) == 200
    assert b"".join(asked).decode() == (
        f"{line}\r\nHost: {where}\r\nUser-Agent: okome-probe\r\nConnection: close\r\n\r\n"
    )


def test_http_is_on_port_80(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    async def connect(host: str, port: int, *, limit: int) -> None:
        seen.extend((host, port, limit))
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(probe.ask(urlsplit("http://orchestrator/health")))
    assert seen == ["orchestrator", 80, HEAD_LIMIT]


@pytest.mark.parametrize(
    ("head", "status"),
    [(OK, 200), (b"HTTP/1.0 503 Not  now\r\nX: 1 2\r\n\r\n", 503), (b"HTTP/1.1 204\r\n\r\n", 204)],
)
def test_the_status_is_in_the_first_line(head: bytes, status: int) -> None:
    assert status_of(head) == status


def test_what_is_no_http_is_quoted_not_endlessly() -> None:
    with pytest.raises(ValueError, match=r"^not an HTTP answer: ") as error:
        status_of(b"HTTP/2 200 " + b"x" * 100)
    assert str(error.value) == f"not an HTTP answer: {b'HTTP/2 200 ' + b'x' * 29!r}"


def test_rise_counts_from_anew_after_a_failure() -> None:
    down = Health(up=False)
    assert down.after(True, rise=2, fall=9) == Health(up=False, against=1)
    assert down.after(True, rise=2, fall=9).after(False, rise=2, fall=9) == down
    assert down.after(True, rise=1, fall=9) == Health()
    assert Health().after(False, rise=9, fall=2) == Health(up=True, against=1)


def disk(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    fields = {"bsize": 1, "frsize": 4096, "blocks": 10**9, "bfree": 10**9, "bavail": 25} | values
    statvfs = os.statvfs_result((*fields.values(), 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", {Path("/cache"): statvfs}.__getitem__)


@pytest.mark.parametrize(("reserve", "room"), [(102399, True), (102400, True), (102401, False)])
def test_room_is_what_others_than_root_may_still_write(
    monkeypatch: pytest.MonkeyPatch, reserve: int, room: bool
) -> None:
    """In fragments, and 25 of them: neither the blocks that root alone may have nor another unit count."""
    disk(monkeypatch)
    assert has_room(Path("/cache"), reserve) is room


@pytest.mark.parametrize(
    ("error", "room"), [(FileNotFoundError(), True), (OSError(5, "I/O"), False), (PermissionError(), False)]
)
def test_a_disk_that_can_not_say(monkeypatch: pytest.MonkeyPatch, error: OSError, room: bool) -> None:
    """Where there is no cache there is nothing to protect; a disk that fails is none to write to."""

    def statvfs(_: Path) -> None:
        raise error

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert has_room(Path("/cache"), 0) is room


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@okome-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name[1:]}" if abstract else name)
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    notify("READY=1")


def test_a_flag_is_there_for_everybody(tmp_path: Path) -> None:
    flag, umask = tmp_path / "down", os.umask(0)
    try:
        for _ in range(2):
            set_flag(flag, well=False)
            assert flag.stat().st_mode & 0o777 == 0o644
        for _ in range(2):
            set_flag(flag, well=True)
            assert not flag.exists()
    finally:
        os.umask(umask)


class Watched:
    """`watch` over given answers of the origin and the disk, until they end. What stood after each round."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, failures: list[str], rooms: list[bool]
    ) -> None:
        self.flags: list[tuple[bool, bool]] = []
        self.told: list[str] = []
        self.asked: list[object] = []
        self.options = argparse.Namespace(
            url=urlsplit("http://127.0.0.1:1/health"), timeout=3.5, rise=2, fall=3, interval=1.0, reserve=7,
            flag=folder / "down", cache=folder / "cache", full_flag=folder / "full",
        )  # fmt: skip
        answers, disks = iter(failures), iter(rooms)

        async def ask(url: object, seconds: float) -> str:
            self.asked.append((url, seconds))
            return next(answers)

        def room(cache: Path, reserve: int) -> bool:
            self.asked.append((cache, reserve))
            return next(disks)

        async def pause(_: float) -> None:
            self.flags.append((self.options.flag.exists(), self.options.full_flag.exists()))
            if len(self.flags) == len(failures):
                raise asyncio.CancelledError

        monkeypatch.setattr(probe, "probe", ask)
        monkeypatch.setattr(probe, "has_room", room)
        monkeypatch.setattr(probe, "notify", self.told.append)
        monkeypatch.setattr(asyncio, "sleep", pause)


def test_both_flags_follow_what_is_found_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = ["no", "no", "gone", "", "", ""]
    watched = Watched(tmp_path, monkeypatch, failures, [True, False, False, True, False, True])
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(probe.watch(watched.options))
    assert watched.flags == [
        (False, False),
        (False, True),
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]
    assert watched.told == [
        "READY=1\nSTATUS=up: not asked yet",
        "WATCHDOG=1\nSTATUS=up: no",
        "WATCHDOG=1\nSTATUS=up: no",
        "WATCHDOG=1\nSTATUS=down: gone",
        "WATCHDOG=1\nSTATUS=down: healthy",
        "WATCHDOG=1\nSTATUS=up: healthy",
        "WATCHDOG=1\nSTATUS=up: healthy",
    ]
    assert capsys.readouterr().out.splitlines() == [
        "the cache's disk has no room",
        "the orchestrator is down: gone",
        "the cache's disk has room again",
        "the orchestrator is up",
        "the cache's disk has no room",
        "the cache's disk has room again",
    ]
    options = watched.options
    assert watched.asked[:2] == [(options.url, 3.5), (options.cache, 7 << 20)]


def test_flags_that_were_left_are_gone_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, monkeypatch, [], [])
    flags = (watched.options.flag, watched.options.full_flag)

    async def ask(*_: object) -> str:
        assert not any(flag.exists() for flag in flags)
        assert watched.told == ["READY=1\nSTATUS=up: not asked yet"]
        raise asyncio.CancelledError

    monkeypatch.setattr(probe, "probe", ask)
    for flag in flags:
        flag.touch()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(probe.watch(watched.options))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_takes_both_flags_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    options = argparse.Namespace(flag=tmp_path / "down", full_flag=tmp_path / "full")

    async def watch(given: argparse.Namespace) -> None:
        for flag in (given.flag, given.full_flag):
            flag.touch()
        os.kill(os.getpid(), number)
        await asyncio.sleep(20)
        raise AssertionError("the signal did not end it")

    def unheard(*_: object) -> None:
        raise AssertionError("nobody waits for the signal")

    monkeypatch.setattr(probe, "watch", watch)
    before = signal.signal(number, unheard)  # or it would end the tests
    try:
        asyncio.run(probe.run(options))
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_ends_it_with_that_and_takes_both_flags_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(flag=tmp_path / "down", full_flag=tmp_path / "full")

    async def watch(given: argparse.Namespace) -> None:
        given.full_flag.touch()
        raise OSError("no such folder")

    monkeypatch.setattr(probe, "watch", watch)
    with pytest.raises(OSError, match="no such folder"):
        asyncio.run(probe.run(options))
    assert list(tmp_path.iterdir()) == []


WORDS = (
    "--url http://192.0.2.25:8000/health --flag /run/down --interval 0.25 --timeout 1.5 --rise 2 --fall 3"
    " --cache /var/cache --reserve 128 --full-flag /run/full"
)


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[argparse.Namespace] = []

    async def run(options: argparse.Namespace) -> None:
        given.append(options)

    monkeypatch.setattr(probe, "run", run)
    words = ["probe.py", *WORDS.split()]
    monkeypatch.setattr(sys, "argv", words)
    assert probe.main() == 0
    assert vars(given[0]) == {
        "url": urlsplit("http://192.0.2.25:8000/health"), "flag": Path("/run/down"), "interval": 0.25,
        "timeout": 1.5, "rise": 2, "fall": 3, "cache": Path("/var/cache"), "reserve": 128,
        "full_flag": Path("/run/full"),
    }  # fmt: skip
    for index in range(1, len(words), 2):
        monkeypatch.setattr(sys, "argv", words[:index] + words[index + 2 :])
        with pytest.raises(SystemExit):
            probe.main()
        assert words[index] in capsys.readouterr().err
