#!/usr/bin/env python3
"""Hit ratios of the frontend's cache, by requests and by bytes, from nginx's access log (okome_fmt).

    hitratio.py --state FOLDER --log FILE    reads what was logged since the last run, keeps the totals, writes
                                             Prometheus text
    hitratio.py --state FOLDER --show        prints the totals as a table; --json for programs

Only answers that the cache was asked for count: streams, calls and bypasses are in no ratio. Totals and read
positions are in FOLDER, which is in RAM: after a reboot they are counted again from the logs that are still there.

Standard library only: it runs on the node's own python3.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

# What nginx calls an answer that came from the cache (ngx_http_upstream_module, $upstream_cache_status), and
# one for which the origin had to send the body.
HITS = frozenset({"HIT", "STALE", "UPDATING", "REVALIDATED"})
MISSES = frozenset({"MISS", "EXPIRED"})


@dataclass
class Count:
    """Requests, and bytes of bodies, of one location."""

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0

    @property
    def ratio(self) -> float | None:
        """Hits ÷ requests, None before the first."""
        total = self.hits + self.misses
        return self.hits / total if total else None

    @property
    def byte_ratio(self) -> float | None:
        total = self.hit_bytes + self.miss_bytes
        return self.hit_bytes / total if total else None

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.hits + other.hits,
            self.misses + other.misses,
            self.hit_bytes + other.hit_bytes,
            self.miss_bytes + other.miss_bytes,
        )


@dataclass
class Totals:
    """`offsets`: the identity of each log file that is there → bytes of it that were read."""

    locations: dict[str, Count] = field(default_factory=dict)
    unreadable: int = 0
    offsets: dict[str, int] = field(default_factory=dict)

    def add(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                entry = json.loads(line.decode(errors="replace"))
                location, status, size = str(entry["location"]), entry["cache"], int(entry["bytes"])
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
                continue
            count = self.locations.get(location, Count())
            if status in HITS:
                self.locations[location] = count + Count(hits=1, hit_bytes=size)
            elif status in MISSES:
                self.locations[location] = count + Count(misses=1, miss_bytes=size)


def identity(log: BinaryIO) -> str | None:
    """Device, inode and first line: an inode is used again as soon as a rotated file was compressed. None while
    there is no whole line, and so nothing to count."""
    found = os.fstat(log.fileno())
    log.seek(0)
    first = log.readline()
    if not first.endswith(b"\n"):
        return None
    return f"{found.st_dev}:{found.st_ino}:{hashlib.sha256(first).hexdigest()[:16]}"


def read(log: BinaryIO, key: str, totals: Totals) -> None:
    """Adds the complete lines that were not read before. A file that became shorter was written anew."""
    offset = totals.offsets.get(key, 0)
    log.seek(offset if offset <= os.fstat(log.fileno()).st_size else 0)
    totals.offsets[key] = log.tell()
    totals.add(whole(log, totals, key))


def whole(log: Iterable[bytes], totals: Totals, key: str) -> Iterator[bytes]:
    """Lines that end; the last one may still be being written, and is left for the next run."""
    for line in log:
        if line.endswith(b"\n"):
            totals.offsets[key] += len(line)
            yield line


def update(log: Path, totals: Totals) -> None:
    """Reads on in the log and in the one that was rotated last: nginx writes there until it has reopened.

    The log is opened first. If it is rotated then, it is met again as the older one, and what came in its place
    waits for the next run. So a file that is neither of the two will not be met again.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, BinaryIO] = {}
        for path in (log, log.with_name(f"{log.name}.1")):
            with contextlib.suppress(FileNotFoundError):
                opened = stack.enter_context(path.open("rb"))
                if key := identity(opened):
                    found[key] = opened
        totals.offsets = {key: offset for key, offset in totals.offsets.items() if key in found}
        for key, file in reversed(found.items()):
            read(file, key, totals)


def load(path: Path) -> Totals:
    """The totals of the last run. A file that is not there, or is damaged, means counting from the beginning."""
    try:
        saved = json.loads(path.read_text())
        locations = {name: Count(**count) for name, count in saved["locations"].items()}
        return Totals(locations, saved["unreadable"], saved["offsets"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Totals()


def replace(path: Path, text: str) -> None:
    """Whole or not at all: somebody may be reading."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def prometheus(totals: Totals) -> str:
    """Prometheus' text format. Locations are nginx's prefixes, so their number is small and fixed."""
    lines: list[str] = []
    for name, says, hits, misses in (
        ("okome_cache_requests_total", "Requests that the cache was asked for.", "hits", "misses"),
        ("okome_cache_bytes_total", "Bytes of bodies that were answered with.", "hit_bytes", "miss_bytes"),
    ):
        lines += [f"# HELP {name} {says}", f"# TYPE {name} counter"]
        for location, count in sorted(totals.locations.items()):
            label = location.replace("\\", r"\\").replace('"', r"\"")
            for result, value in (("hit", getattr(count, hits)), ("miss", getattr(count, misses))):
                lines.append(f'{name}{{location="{label}",result="{result}"}} {value}')
    lines += [
        "# HELP okome_log_unreadable_lines_total Lines of the access log that are not okome_fmt.",
        "# TYPE okome_log_unreadable_lines_total counter",
        f"okome_log_unreadable_lines_total {totals.unreadable}",
    ]
    return "\n".join(lines) + "\n"


def report(totals: Totals) -> dict[str, dict[str, float | int | None]]:
    """Location → its counts and ratios; "all" is their sum."""
    rows = {**totals.locations, "all": sum(totals.locations.values(), Count())}
    return {
        name: {**asdict(count), "ratio": count.ratio, "byte_ratio": count.byte_ratio}
        for name, count in rows.items()
    }


def table(totals: Totals) -> str:
    lines = [f"{'location':20} {'requests':>10} {'hit ratio':>10} {'MB':>10} {'byte ratio':>10}"]
    for name, count in [*sorted(totals.locations.items()), ("all", sum(totals.locations.values(), Count()))]:
        ratios = ["-" if ratio is None else f"{ratio:.3f}" for ratio in (count.ratio, count.byte_ratio)]
        megabytes = (count.hit_bytes + count.miss_bytes) / 1e6
        lines.append(
            f"{name:20} {count.hits + count.misses:>10} {ratios[0]:>10} {megabytes:>10.1f} {ratios[1]:>10}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--state", type=Path, required=True, help="folder of totals.json and okome.prom")
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--log", type=Path, help="nginx's access log")
    job.add_argument("--show", action="store_true", help="print the totals, read nothing")
    parser.add_argument("--json", action="store_true", help="with --show: as JSON")
    options = parser.parse_args(arguments)
    saved = options.state / "totals.json"
    if options.show:
        totals = load(saved)
        print(json.dumps(report(totals)) if options.json else table(totals))
        return 0
    with (options.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        totals = load(saved)
        update(options.log, totals)
        replace(options.state / "okome.prom", prometheus(totals))
        replace(saved, json.dumps(asdict(totals)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
