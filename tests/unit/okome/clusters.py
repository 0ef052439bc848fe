"""A Redis Cluster of real nodes: three masters, and as many replicas of the last one as are asked for."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.ports import free_port
from bench.redis_server import RedisServer
from okome.acl import APPLICATION_COMMANDS, CLUSTER_COMMANDS

SLOTS = 16384
SPREAD = ("b", "c", "a")  # namespaces, one on each third of the slots, and so on each of the masters in turn
MASTERS = len(SPREAD)


@contextmanager
def running_cluster(*, replicas: int = 0, node_timeout: int = 5000) -> Iterator[list[RedisServer]]:
    """The masters, in the order of their slots, then the replicas. `node_timeout`: ms."""
    ports = [free_port() for _ in range(2 * (MASTERS + replicas))]
    buses = ports[MASTERS + replicas :]
    password, admin_password = secrets.token_hex(16), secrets.token_hex(16)
    with ExitStack() as stack:
        nodes = []
        for port, bus in zip(ports, buses, strict=False):
            node = RedisServer(
                *("--bind", "127.0.0.1", "--port", str(port)),
                *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                *("--cluster-node-timeout", str(node_timeout)),
                *("--masteruser", "admin", "--masterauth", admin_password, "--repl-diskless-sync-delay", "0"),
                commands=(*APPLICATION_COMMANDS, *CLUSTER_COMMANDS),
                password=password,
                admin_password=admin_password,
            )
            node.url = node.at(port)[0]
            nodes.append(stack.enter_context(node))
        for n, node in enumerate(nodes):
            if n < MASTERS:
                first, last = n * SLOTS // MASTERS, (n + 1) * SLOTS // MASTERS - 1
                node.execute("CLUSTER ADDSLOTSRANGE", first, last)
            node.execute("CLUSTER MEET", "127.0.0.1", ports[0], buses[0])
        _until(lambda: all(_knows(node, len(nodes)) for node in nodes))
        followed = nodes[MASTERS - 1].execute("CLUSTER MYID")
        for node in nodes[MASTERS:]:
            node.execute("CLUSTER REPLICATE", followed.decode())
        _until(lambda: all(_follows(node) for node in nodes[MASTERS:]) and all(map(_is_well, nodes)))
        yield nodes


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "the nodes did not become a cluster"
        time.sleep(0.05)


def _info(node: RedisServer) -> str:
    return str(node.execute("CLUSTER INFO"))


def _knows(node: RedisServer, others: int) -> bool:
    return f"cluster_known_nodes': '{others}" in _info(node)


def _is_well(node: RedisServer) -> bool:
    return "cluster_state': 'ok" in _info(node)


def _follows(node: RedisServer) -> bool:
    found = node.admin.info("replication")
    return (found["role"], found.get("master_link_status")) == ("slave", "up")
