"""Who is where one of our services is to listen, and what is said of them; no node."""

import pytest

from facts.listeners import Listeners, parse
from facts.several import Question
from operations.services import exporters, nginx, redis
from operations.services.sockets import Socket, look, taken

DATA = {
    "address": "192.168.86.20",
    "redis_port": 6379,
    "fetch_port": 8010,
    "nginx_exporter_listen": "192.168.86.20:9113",
    "tls_certificate": "",
}
REDIS = redis.sockets(DATA)
NGINX = (*nginx.sockets(DATA), *exporters.sockets(DATA))


def test_where_the_frontends_services_listen() -> None:
    assert (
        Socket("nginx", "nginx.service", "0.0.0.0", 80),  # noqa: S104
        Socket("nginx", "nginx.service", "127.0.0.1", 8010, "fetch_port"),
        Socket(
            "the nginx exporter",
            "prometheus-nginx-exporter.service",
            "192.168.86.20",
            9113,
            "nginx_exporter_listen",
        ),
    ) == NGINX
    tls = nginx.sockets(DATA | {"tls_certificate": "/etc/ssl/cn00.pem"})
    assert tls[1] == Socket("nginx", "nginx.service", "0.0.0.0", 443)  # noqa: S104


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "*:80 253 apache2.service apache2",
            "port 80, which nginx needs, is taken by apache2 (pid 253, apache2.service):"
            " `systemctl disable --now apache2.service`",
        ),
        (
            "172.17.0.1:80 77 - docker-proxy",
            "port 80, which nginx needs, is taken by docker-proxy (pid 77, -): end it, and what starts it",
        ),
        (
            "127.0.0.1:8010 9 x.service a b",
            "port 8010, which nginx needs, is taken by a b (pid 9, x.service):"
            " `systemctl disable --now x.service`, or choose another fetch_port",
        ),
        (
            "0.0.0.0:9113 - - ",
            "port 9113, which the nginx exporter needs, is taken by somebody (pid -, -):"
            " end it, and what starts it, or choose another nginx_exporter_listen",
        ),
        (
            "*:80 1 - systemd",
            "port 80, which nginx needs, is taken by systemd (pid 1, -): a socket unit has it, which"
            " `systemctl list-sockets` names: disable that",
        ),
    ],
)
def test_what_is_in_the_way_is_one_sentence(line: str, sentence: str) -> None:
    assert taken(parse([line]), NGINX) == [sentence]


@pytest.mark.parametrize(
    "line",
    [
        "0.0.0.0:80 9 nginx.service nginx",  # whatever it is: its checker judges the files
        "[::]:80 9 caddy.service caddy",
        "127.0.0.2:8010 9 x.service x",
        "0.0.0.0:443 9 x.service x",  # plain HTTP
        "127.0.0.1:9113 9 x.service x",
        "192.168.86.20:9113 9 prometheus-nginx-exporter.service prometheus-nginx-exporter",
    ],
)
def test_what_is_in_nobodys_way(line: str) -> None:
    assert taken(parse([line]), NGINX) == []


@pytest.mark.parametrize("where", ["127.0.0.1", "192.168.86.20", "0.0.0.0", "*"])  # noqa: S104
def test_another_redis_is_told_of_once(where: str) -> None:
    (one,) = taken(parse([f"{where}:6379 253 valkey-server.service valkey-server"]), REDIS)
    assert one.endswith("`systemctl disable --now valkey-server.service`, or choose another redis_port")
    assert len(taken(parse([f"{at}:6379 2 - x" for at in ("127.0.0.1", "192.168.86.20")]), REDIS)) == 1


@pytest.mark.parametrize("where", ["192.168.86.132", "[::1]", "[::]"])
def test_redis_is_on_two_addresses_only(where: str) -> None:
    assert taken(parse([f"{where}:6379 9 valkey-server.service valkey-server"]), REDIS) == []


def test_a_look_asks_for_each_port_once() -> None:
    one = look(*REDIS, *NGINX)
    assert one.questions == (Question(Listeners, {"ports": (6379, 80, 8010, 9113)}),)
    assert one.findings(parse(["*:80 9 a.service a", "*:6379 9 b.service b"])) == [
        "port 6379, which Redis needs, is taken by b (pid 9, b.service):"
        " `systemctl disable --now b.service`, or choose another redis_port",
        "port 80, which nginx needs, is taken by a (pid 9, a.service): `systemctl disable --now a.service`",
    ]
