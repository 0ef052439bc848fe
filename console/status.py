"""`okome status`: the whole tier in one table: what runs, what the upstream does, how well the caches work."""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import inventory
from console.ssh import options

SECONDS = 20  # for everything that is asked of one node
SERVICES = {
    "frontend": (
        "nginx",
        "okome-probe",
        "okome-hitratio.timer",
        "okome-hitratio.service",
        "prometheus-nginx-exporter",
    ),
    "backend": ("redis-server",),
}
# Started by a timer, and over soon. One that failed leaves its timer active, and the numbers as they were.
ONESHOTS = {"okome-hitratio.service"}
# One line for each thing that is known: a word, and what there is to say. As root of the node.
QUESTIONS = {
    "frontend": """
        said=$(systemctl show -P StatusText okome-probe)
        ! systemctl -q is-active okome-probe || echo "upstream ${said%%:*}"
        ! test -x /usr/local/bin/okome-hitratio || echo "cache $(okome-hitratio --json)"
    """,
    "backend": """
        redis-admin --raw info memory 2>/dev/null | tr -d '\\r' |
            sed -n -e 's/^used_memory:/redis-used /p' -e 's/^maxmemory:/redis-max /p'
    """,
}


@dataclass
class Status:
    """One node. What could not be learnt is None; `trouble` says why a node did not answer at all."""

    node: str
    role: str
    address: str
    trouble: str | None = None
    services: dict[str, str] = field(default_factory=dict)  # unit → systemd's ActiveState
    upstream: str | None = None  # up or down, as the probe sees it
    hit_ratio: float | None = None  # 0 … 1, by requests
    byte_hit_ratio: float | None = None
    redis_used: int | None = None  # bytes
    redis_max: int | None = None  # bytes

    @property
    def wrong(self) -> list[str]:
        """The units that are not as they should be, with their states."""
        return [
            f"{unit} {state}"
            for unit, state in self.services.items()
            if (state == "failed" if unit in ONESHOTS else state != "active")
        ]

    @property
    def healthy(self) -> bool:
        """A frontend whose upstream is down is healthy."""
        return self.trouble is None and bool(self.services) and not self.wrong


def read(status: Status, output: str) -> None:
    """Fills in what the node's answer says; a line with an unknown word says nothing. ValueError, KeyError."""
    for line in output.splitlines():
        word, _, value = line.partition(" ")
        if word == "unit":
            unit, _, state = value.partition(" ")
            status.services[unit] = state
        elif word == "upstream":
            status.upstream = value
        elif word == "cache":
            counts = json.loads(value)["all"]
            status.hit_ratio, status.byte_hit_ratio = counts["ratio"], counts["byte_ratio"]
        elif word == "redis-used":
            status.redis_used = int(value)
        elif word == "redis-max":
            status.redis_max = int(value)


def ssh(address: str) -> list[str]:
    return ["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options().items()), address]


def ask(status: Status) -> Status:
    """Asks one node, in one command."""
    units = " ".join(SERVICES[status.role])
    script = f'for u in {units}; do echo "unit $u $(systemctl is-active $u)"; done\n{QUESTIONS[status.role]}'
    try:
        done = subprocess.run(
            [*ssh(status.address), "sudo", "-n", "sh"],
            input=script,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        status.trouble = f"no answer within {SECONDS} s"
        return status
    try:
        read(status, done.stdout)
    except (ValueError, KeyError) as error:
        status.trouble = f"answers something else than expected: {error!r}"
        return status
    if not status.services:
        status.trouble = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return status


def table(found: list[Status]) -> str:
    """A line for each node; a service is named only where it is not well."""
    rows = [("node", "address", "services", "upstream", "hit ratio", "by bytes", "Redis memory")]
    for one in found:
        memory = "-"
        if one.redis_used is not None:
            limit = f" of {one.redis_max / 2**20:.0f}" if one.redis_max else ""
            memory = f"{one.redis_used / 2**20:.0f}{limit} MiB"
        rows.append(
            (
                one.node,
                one.address,
                one.trouble or ", ".join(one.wrong) or f"all {len(one.services)} well",
                one.upstream or "-",
                "-" if one.hit_ratio is None else f"{one.hit_ratio:.3f}",
                "-" if one.byte_hit_ratio is None else f"{one.byte_hit_ratio:.3f}",
                memory,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: list[str]) -> int:
    """Exit status 1 if a node does not answer or a service is not well."""
    parser = argparse.ArgumentParser(prog="okome status", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="for programs")
    asked = parser.parse_args(arguments)
    nodes = [
        Status(name, role, data["address"])
        for role, hosts in (("frontend", inventory.frontends), ("backend", inventory.backends))
        for name, data in hosts
    ]
    with ThreadPoolExecutor(len(nodes)) as threads:
        found = list(threads.map(ask, nodes))
    if asked.json:
        print(
            json.dumps(
                {"nodes": {one.node: asdict(one) | {"healthy": one.healthy} for one in found}}, indent=2
            )
        )
    else:
        print(table(found))
    return 0 if all(one.healthy for one in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
