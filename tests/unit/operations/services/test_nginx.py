"""What collides with our nginx configuration: the fact's own command on real files, and the verdict."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyinfra.api import DeployError

from facts.nginx import ROOT, NginxFile, NginxFiles
from group_data import frontends
from operations.services.nginx import giving_way, nginx_config

DATA = {**vars(frontends), "address": "192.168.86.20", "lan_prefix_length": 24}
CONFIG = nginx_config("bookworm", "CN00", DATA)

KOME_CACHE = """
limit_req_zone $binary_remote_addr zone=api_limit:10m rate=10r/s;
proxy_cache_path /var/cache/nginx/kome keys_zone=kome:10m;
upstream kome { server 192.168.86.25:8000; }
server {
    listen 80 default_server;
    server_name _;
    location / { limit_req zone=api_limit; proxy_pass http://kome; }
}
"""
NGINX_CONF = "events {}\nhttp {\n  include conf.d/*.conf;\n  include /etc/nginx/sites-enabled/*;\n}\n"


class Etc:
    """/etc/nginx of a node that was set up by hand, below a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("conf.d", "sites-enabled", "sites-available", "modules-enabled"):
            (root / folder).mkdir(parents=True)
        self.put("nginx.conf", NGINX_CONF)

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text.replace(ROOT, str(self.root)))

    def files(self) -> tuple[NginxFile, ...]:
        command = NginxFiles().command().replace(ROOT, str(self.root))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
        return NginxFiles().process(done.stdout.replace(str(self.root), ROOT).splitlines())

    def verdict(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return giving_way(self.files(), CONFIG, DATA)


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    return Etc(tmp_path / "nginx")


def symlinked(etc: Etc) -> None:
    etc.put("sites-available/kome-cache.conf", KOME_CACHE)
    (etc.root / "sites-enabled/kome-cache.conf").symlink_to(etc.root / "sites-available/kome-cache.conf")


PLACES: dict[str, tuple[Callable[[Etc], None], set[str]]] = {
    "conf.d": (lambda etc: etc.put("conf.d/kome-cache.conf", KOME_CACHE), {"conf.d/kome-cache.conf"}),
    "sites-enabled": (
        lambda etc: etc.put("sites-enabled/kome-cache.conf", KOME_CACHE),
        {"sites-enabled/kome-cache.conf"},
    ),
    "symlink": (symlinked, {"sites-enabled/kome-cache.conf", "sites-available/kome-cache.conf"}),
    "sites-available": (
        lambda etc: etc.put("sites-available/kome-cache.conf", KOME_CACHE),
        {"sites-available/kome-cache.conf"},
    ),
    "another name": (lambda etc: etc.put("sites-enabled/proxy", KOME_CACHE), {"sites-enabled/proxy"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_kome_cache_gives_way_wherever_it_is(etc: Etc, place: str) -> None:
    lay, expected = PLACES[place]
    lay(etc)
    old, _aside = etc.verdict()
    assert set(old) == {f"{ROOT}/{path}" for path in expected}


def test_includes_are_followed_out_of_the_usual_folders(etc: Etc, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a folder" / "site.conf"
    elsewhere.parent.mkdir()
    elsewhere.write_text(KOME_CACHE)
    etc.put(
        "conf.d/more.conf",
        f'# include conf.d/more.conf;\nmap_hash_max_size 2048; include "{elsewhere.parent}/*.conf";',
    )
    assert etc.verdict()[0] == (str(elsewhere),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nlimit_req_zone $uri zone=api_limit:1m rate=1r/s;", "shop.conf:2 defines zone 'api_limit'"),
        ("limit_conn_zone $uri zone=okome:1m;", "shop.conf:1 defines zone 'okome'"),
        ("fastcgi_cache_path /srv/a levels=1:2 keys_zone=okome:1m;", "shop.conf:1 defines zone 'okome'"),
        ("uwsgi_cache_path /srv/a keys_zone=okome:1m inactive=1d;", "shop.conf:1 defines zone 'okome'"),
        ("scgi_cache_path /srv/a keys_zone=okome:1m;", "shop.conf:1 defines zone 'okome'"),
        ("scgi_cache_path /var/cache/nginx/okome/ keys_zone=a:1m;", "cache_path '/var/cache/nginx/okome'"),
        ("upstream shop {\n zone okome 1m;\n server 10.0.0.9; }", "shop.conf:2 defines zone 'okome'"),
        ("upstream shop { server 10.0.0.9; zone okome; }", "shop.conf:1 defines zone 'okome'"),
        ("ssl_session_cache builtin:9 shared:api_limit:1m;", "shop.conf:1 defines zone 'api_limit'"),
        ("server { listen 8443;\n ssl_ocsp_cache shared:okome:1m; }", "shop.conf:2 defines zone 'okome'"),
        ("log_format okome_fmt '$uri';", "shop.conf:1 defines log_format 'okome_fmt'"),
        ("upstream okome_orchestrator { server 10.0.0.9; }", "shop.conf:1 defines upstream 'okome_orchestrator'"),
        ("map $uri $okome_upstream { default x; }", "shop.conf:1 defines map '$okome_upstream'"),
        ("server {\n listen 80;\n server_name shop CN00;\n}", "shop.conf:3 defines server_name 'cn00'"),
        ("server { listen [::]:80; server_name 192.168.86.20; }", "defines server_name '192.168.86.20'"),
        ("server {\n\n listen 80 default_server; }", "shop.conf:3 defines default_server '80'"),
        (KOME_CACHE.replace("location /", "location /shop { proxy_pass http://10.0.0.9; } location /"), "api_limit"),
    ],
)  # fmt: skip
def test_a_strangers_file_stops_the_deploy(etc: Etc, text: str, said: str) -> None:
    etc.put("conf.d/shop.conf", text)
    with pytest.raises(DeployError) as caught:
        etc.verdict()
    assert said in str(caught.value)
    assert f"{ROOT}/conf.d/shop.conf:" in str(caught.value)


def test_with_tls_the_name_of_our_sessions_is_taken_too(etc: Etc) -> None:
    etc.put("conf.d/shop.conf", "server { listen 8443 ssl; ssl_session_cache shared:okome_tls:1m; }")
    assert etc.verdict()[0] == ()
    data = DATA | {"tls_certificate": "/etc/ssl/okome/cn00.pem"}
    with pytest.raises(DeployError, match=r"shop\.conf:1 defines zone 'okome_tls'"):
        giving_way(etc.files(), nginx_config("bookworm", "CN00", data), data)


def test_a_stranger_who_does_not_collide_stays(etc: Etc) -> None:
    etc.put(
        "conf.d/shop.conf",
        "upstream shop { zone shop 1m; server 10.0.0.9; } server { listen 8080; server_name cn00; }"
        " ssl_session_cache shared:shop_tls:1m; fastcgi_cache_path /srv/okome keys_zone=shop_cache:1m;",
    )
    etc.put("sites-available/other", KOME_CACHE)  # nginx does not read it
    assert etc.verdict() == ((), (f"{ROOT}/nginx.conf",))


def test_a_strangers_site_inside_nginx_conf_stops_the_deploy(etc: Etc) -> None:
    etc.put(
        "nginx.conf",
        NGINX_CONF.replace("http {", "http { server { location / { proxy_pass http://10.0.0.9; } }"),
    )
    with pytest.raises(DeployError, match=r"/etc/nginx/nginx.conf:2 is a site of its own"):
        etc.verdict()


def test_a_symlink_to_nowhere_is_seen(etc: Etc) -> None:
    (etc.root / "sites-enabled/kome-cache.conf").symlink_to("../nowhere")
    assert etc.verdict()[0] == (f"{ROOT}/sites-enabled/kome-cache.conf",)


def test_the_welcome_page_goes_only_if_it_is_debians_own(etc: Etc) -> None:
    etc.put("sites-enabled/default", "server { listen 8080; root /srv/photos; }")
    with pytest.raises(DeployError, match=r"/etc/nginx/sites-enabled/default is not Debian's own"):
        etc.verdict()
    packaged = [replace(file, packaged=file.path.endswith("default")) for file in etc.files()]
    assert giving_way(packaged, CONFIG, DATA) == ((), (f"{ROOT}/nginx.conf",))


def test_our_own_files_do_not_collide_and_former_ones_give_way(etc: Etc) -> None:
    mark = "# Managed by the okome repository; changes made here are lost.\n"
    etc.put("nginx.conf", mark + NGINX_CONF)
    etc.put("conf.d/okome-server.conf", mark + KOME_CACHE)
    etc.put("conf.d/okome-former.conf", mark + "log_format okome_fmt x;")
    assert etc.verdict() == ((f"{ROOT}/conf.d/okome-former.conf",), ())


@pytest.mark.parametrize(
    ("listen", "collides"),
    [
        ("192.168.86.20:80", True),
        ("192.168.86.20", True),
        ("[fd00::20]:80", True),
        ("127.0.0.1:80", False),
        ("[::1]:80", False),
        ("8080", False),
        ("192.168.86.20:8080", False),
    ],
)
def test_a_listen_on_an_address_of_its_own_takes_what_is_ours(etc: Etc, listen: str, collides: bool) -> None:
    etc.put("conf.d/shop.conf", f"server {{ listen {listen}; server_name shop; }}")
    if collides:
        with pytest.raises(DeployError, match=r"shop\.conf:1 "):
            etc.verdict()
    else:
        assert etc.verdict()[0] == ()


def test_broken_configuration_is_read_too(etc: Etc) -> None:
    etc.put("conf.d/kome-cache.conf", KOME_CACHE + "server {")
    etc.put("conf.d/binary.conf", "\x00\x01 not nginx {")
    etc.put(
        "conf.d/bare.conf",
        "upstream {\n}\nmap {\n}\nproxy_cache_path;\nserver { listen; server_name shop; location / { proxy_pass; } }",
    )
    etc.put("conf.d/zone.conf", "upstream shop { zone; server; }\nlog_format;")
    etc.put("conf.d/loop.conf", f"include {ROOT}/conf.d/*.conf;")
    assert etc.verdict()[0] == (f"{ROOT}/conf.d/kome-cache.conf",)


def test_without_nginx_there_is_nothing(tmp_path: Path) -> None:
    command = NginxFiles().command().replace(ROOT, str(tmp_path / "none"))
    said = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert NginxFiles().process(said.splitlines()) == ()
