#!/usr/bin/env python3
"""Watches the orchestrator's health and tells nginx through flag files; a systemd service on each frontend.

    probe.py --url http://192.168.86.25:8000/health --flag /run/okome/upstream/down …

A flag is there while the orchestrator is down, a second one while the disk of the cache has no room: an answer
that can't be written is cut short by nginx, one that isn't to be stored is not. nginx looks for the flags on
every request. They live in RAM, and without them all is well: a probe that is stopped, or was never started,
stops nothing.

How soon the flag is there: `interval` (and 10 %) after the last good answer the first probe is sent that fails; an
origin that refuses is down after `fall` of those, one that hangs costs `timeout` more for each. Its worst case is
fall × (timeout + 1.1 × interval). The numbers, and what they forgive, are in group_data/frontends.py.

Standard library only: it runs on the node's own python3.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

JITTER = 0.1  # of the interval, both ways: several frontends do not probe in step
HEAD_LIMIT = 16384  # bytes of a response's head; more is not a health answer


@dataclass(frozen=True)
class Health:
    """The state after some probes: up or down, and how many results in a row spoke against it."""

    up: bool = True
    against: int = 0

    def after(self, success: bool, *, rise: int, fall: int) -> "Health":
        """The state after one more result: down after `fall` failures in a row, up after `rise` successes."""
        if success == self.up:
            return Health(self.up)
        if self.against + 1 >= (rise if success else fall):
            return Health(success)
        return Health(self.up, self.against + 1)


def status_of(head: bytes) -> int:
    """The status code of a response's first line; ValueError if that is not HTTP."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if not words[0].startswith(b"HTTP/1."):
        raise ValueError(f"not an HTTP answer: {head[:40]!r}")
    return int(b"".join(words[1:2]))


async def ask(url: SplitResult) -> int:
    """One request on a connection of its own: its status code. OSError or ValueError if there is none."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80, limit=HEAD_LIMIT)
    try:
        request = f"GET {url.path or '/'} HTTP/1.1\r\nHost: {url.netloc}\r\nUser-Agent: okome-probe\r\n"
        writer.write(f"{request}Connection: close\r\n\r\n".encode())
        return status_of(await reader.readuntil(b"\r\n\r\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ValueError(f"no complete answer: {error}") from error
    finally:
        writer.transport.abort()


async def probe(url: SplitResult, seconds: float) -> str:
    """Why the orchestrator is not healthy, in a few words; empty if it is. Takes at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            status = await ask(url)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (OSError, ValueError) as error:
        return str(error) or repr(error)
    return "" if 200 <= status < 300 else f"status {status}"


def has_room(cache: Path, reserve: int) -> bool:
    """Whether the disk that `cache` is on has `reserve` bytes left; yes where there is no cache yet."""
    try:
        disk = os.statvfs(cache)
    except FileNotFoundError:
        return True
    except OSError:  # a disk that can't say is none to write to
        return False
    return disk.f_bavail * disk.f_frsize >= reserve


def notify(message: str) -> None:
    """sd_notify(3): nothing happens where systemd did not ask for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect("\0" + path[1:] if path.startswith("@") else path)
        connection.sendall(message.encode())


def set_flag(flag: Path, well: bool) -> None:
    """nginx stats it as another user, and only its existence counts."""
    if well:
        flag.unlink(missing_ok=True)
    else:
        flag.touch(mode=0o644)


async def watch(options: argparse.Namespace) -> None:
    """Probes for ever. A flag that can't be set ends it with the OSError, and systemd starts it again."""
    health, room = Health(), True
    for flag in (options.flag, options.full_flag):
        set_flag(flag, well=True)
    notify("READY=1\nSTATUS=up: not asked yet")
    while True:
        failure = await probe(options.url, options.timeout)
        before, health = health, health.after(not failure, rise=options.rise, fall=options.fall)
        if before.up != health.up:
            print(f"the orchestrator is {'up' if health.up else f'down: {failure}'}", flush=True)
        if room != (room := has_room(options.cache, options.reserve << 20)):
            print(f"the cache's disk has {'room again' if room else 'no room'}", flush=True)
        set_flag(options.flag, well=health.up)  # each time: somebody else may have removed it
        set_flag(options.full_flag, well=room)
        notify(f"WATCHDOG=1\nSTATUS={'up' if health.up else 'down'}: {failure or 'healthy'}")
        await asyncio.sleep(options.interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - no secret


async def run(options: argparse.Namespace) -> None:
    task = asyncio.ensure_future(watch(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for flag in (options.flag, options.full_flag):  # nobody is watching any more
            set_flag(flag, well=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True, type=urlsplit)
    parser.add_argument("--flag", required=True, type=Path)
    parser.add_argument("--interval", required=True, type=float, help="seconds between two probes")
    parser.add_argument("--timeout", required=True, type=float, help="seconds for a whole probe")
    parser.add_argument("--rise", required=True, type=int, help="successes in a row until it is up")
    parser.add_argument("--fall", required=True, type=int, help="failures in a row until it is down")
    parser.add_argument("--cache", required=True, type=Path, help="nginx's cache")
    parser.add_argument("--reserve", required=True, type=int, help="MiB of its disk that stay free")
    parser.add_argument("--full-flag", required=True, type=Path)
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
