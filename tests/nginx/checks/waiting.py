"""Who waits for whom, when several ask for the same."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.nginx.checks.frame import SNIPPETS, Frontend, trap

NGINX_LOOKS_AGAIN = 0.5  # seconds, whether what a client waits for is there (ngx_http_file_cache_lock)


@contextmanager
def asked_at_once(box: Frontend, path: str, clients: int) -> Iterator[list[socket.socket]]:
    """So many clients of one address, each on a connection of its own."""
    connections = [box.client.connect() for _ in range(clients)]
    try:
        for connection in connections:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\nConnection: close\r\n\r\n".encode())
        yield connections
    finally:
        for connection in connections:
            connection.close()


@trap("/etc/nginx/conf.d/okome-server.conf", "proxy_cache_lock on;", "proxy_cache_lock off;")
def one_miss_asks_the_origin_once(box: Frontend) -> None:
    """One crowd of five at least: a machine that stood still for a second lets the others through."""
    asked = []
    for number in range(5):
        box.origin(mode="slow:0.2", reset=True)
        path = f"/assets/public/crowd-{number}"
        with asked_at_once(box, path, 10) as connections:
            answers = [b"".join(iter(partial(one.recv, 65536), b"")) for one in connections]
        assert all(b"\r\n\r\nasset " in answer for answer in answers)
        asked.append(box.origin()["counts"][f"GET {path}"])
        if asked[-1] == 1:
            assert len({answer.partition(b"\r\n\r\n")[2] for answer in answers}) == 1
            return
    pytest.fail(f"the origin was asked {asked} times")


def under_way(box: Frontend, path: str, count: int) -> None:
    """Wait until the origin has been asked so often."""
    limit = time.monotonic() + 5
    while box.origin()["counts"].get(f"GET {path}", 0) < count:
        assert time.monotonic() < limit, box.origin()
        time.sleep(0.02)


@trap("/etc/nginx/conf.d/okome-server.conf", "proxy_cache_lock_timeout 1s;", "proxy_cache_lock_timeout 60s;")
def who_asks_for_what_is_not_kept_does_not_queue(box: Frontend) -> None:
    """Nobody's answer is there before the last of them has asked."""
    box.origin(mode="hanging")
    path = "/assets/no-store/crowd"
    with asked_at_once(box, path, 10):
        under_way(box, path, 10)


@trap(
    f"{SNIPPETS}/okome-api.conf",
    "proxy_buffering off;\nproxy_request_buffering off;\nproxy_cache off;",
    "proxy_request_buffering off;\nproxy_cache okome;\nproxy_cache_lock on;\nproxy_cache_lock_timeout 60s;",
)
def calls_are_not_serialised(box: Frontend) -> None:
    """Ten equal calls are at the origin at the same time: none waits for another's answer."""
    box.origin(mode="hanging")
    with asked_at_once(box, "/v1/models", 10):
        under_way(box, "/v1/models", 10)


def shortest(attempt: Callable[[str], float], path: str) -> float:
    """The least of five attempts' seconds, each with a path of its own: what a busy machine adds is not in it."""
    taken = []
    for number in range(5):
        taken.append(attempt(f"{path}-{number}"))
        if taken[-1] < NGINX_LOOKS_AGAIN:
            break
    return min(taken)


@trap("/etc/nginx/conf.d/okome-server.conf", 'rewrite "(?s)^(.*)$" /okome/alone$1 last;', "")
def nobody_waits_for_an_answer_that_may_never_come(box: Frontend) -> None:
    """A miss is at an origin that hangs when the gate closes: the next one for it is answered before it is."""

    def attempt(path: str) -> float:
        box.set_flag(down=False)
        with asked_at_once(box, path, 1):
            under_way(box, path, 1)
            box.set_flag(down=True)
            before = time.monotonic()
            assert box.client.ask(path).status == 503
            return time.monotonic() - before

    box.origin(mode="hanging")
    assert shortest(attempt, "/assets/public/never") < NGINX_LOOKS_AGAIN


@trap("/etc/nginx/conf.d/okome-server.conf", 'rewrite "(?s)^(.*)$" /okome/alone$1 last;', "")
def with_a_full_disk_nobody_waits_for_another(box: Frontend) -> None:
    def attempt(path: str) -> float:
        before = time.monotonic()
        with asked_at_once(box, path, 3):
            under_way(box, path, 3)
        return time.monotonic() - before

    box.set_full(full=True)
    box.origin(mode="hanging")
    assert shortest(attempt, "/assets/public/three") < NGINX_LOOKS_AGAIN


def expired_in_a_hang(box: Frontend, path: str) -> None:
    """An asset that lives for a second is stored and over, and the origin hangs."""
    assert box.client.ask(path).cache == "MISS"
    time.sleep(2.1)
    box.origin(mode="hanging", reset=True)


@trap(
    "/etc/nginx/conf.d/okome-fetch.conf",
    "proxy_next_upstream error http_502",
    "proxy_next_upstream error timeout http_502",
)
def a_hanging_origin_is_waited_for_once(box: Frontend) -> None:
    """Who asks for an expired asset before the probe has noticed."""
    path = "/assets/short/expired"
    expired_in_a_hang(box, path)
    assert box.client.ask(path).cache == "STALE"
    assert sum(box.origin()["counts"].values()) == 1


@trap(f"{SNIPPETS}/okome-static.conf", "proxy_cache_background_update on;", "")
def who_may_be_served_stale_does_not_wait(box: Frontend) -> None:
    """stale-while-revalidate: the old one is there while the origin is still being asked."""
    path = "/assets/swr/old"
    expired_in_a_hang(box, path)
    with box.client.connect() as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: cn00\r\n\r\n".encode())
        assert select.select([asking], [], [], 4)[0], "it waits for the origin"  # which would take 8 s
    under_way(box, path, 1)
