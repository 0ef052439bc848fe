"""A finished frontend in a lab of the bench's own, what else its nginx is told to serve, and wrk."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import inventory
from lab import LabError, machine
from lab.client import FRONTEND, Client
from lab.operator import deploy

NODE = inventory.frontends[0][0]
ROUND_SECONDS = 2
CONNECTIONS = 32
SECONDS = 600  # for one command of the lab


def lab(*words: str) -> str:
    """A command of the lab that OKOME_LAB names."""
    return machine.run([sys.executable, "-m", "lab", *words], timeout=SECONDS)


def on_node(script: str) -> str:
    return lab("exec", NODE, "--", "sh", "-ec", script)


def finished_node(*data: str, suite: str = "bookworm") -> None:
    """A new CN00 as the deploy leaves it; `data` is what the command line says of it, NAME=VALUE."""
    lab("up", NODE, "--suite", suite, "--fresh")
    address = json.loads(lab("status", "--json"))["nodes"][NODE]["address"]
    given = [word for one in (f"ssh_hostname={address}", *data) for word in ("--data", one)]
    lab("run", "--", *deploy(NODE), "-y", *given)


def verdict(said: str) -> tuple[float, int]:
    """What wrk said: requests per second, and how many failed (status, connection or time-out)."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if not rate:
        raise LabError(f"wrk said something else than expected: {said.strip()}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed = int(refused[1]) if refused else 0
    return float(rate[1]), failed + (sum(map(int, errors.groups())) if errors else 0)


def wrk(url: str, seconds: int = ROUND_SECONDS, connections: int = CONNECTIONS) -> tuple[float, int]:
    """Requests per second of one round, and how many of them failed. LabError if wrk itself did."""
    words = ("-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", url)
    return verdict(machine.run(machine.in_lan("wrk", *words), timeout=seconds + 30))


@contextmanager
def beside_ours(client: Client, servers: str, ports: tuple[int, ...]) -> Iterator[None]:
    """More servers in the node's nginx, which listen on `ports`. Two reloads, after which kept connections end."""
    on_node(f"printf %s '{servers}' >/etc/nginx/conf.d/zz-bench.conf && nginx -s reload")
    try:
        for port in ports:
            client.wait_for(FRONTEND, port)
        time.sleep(2)  # for the old workers to end: they close the connections that they have
        yield
    finally:
        on_node("rm -f /etc/nginx/conf.d/zz-bench.conf && nginx -s reload")
        time.sleep(2)
