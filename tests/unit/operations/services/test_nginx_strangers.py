"""What collides with our nginx configuration: the fact's own command on real files, and the verdict."""

import contextlib
import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from facts import nginx_syntax
from facts.nginx import ROOT, NginxFile, NginxFiles
from group_data import frontends
from operations.services.nginx import nginx_config
from operations.services.nginx_strangers import Verdict, look, verdict

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
        """What the node's program finds; it runs here."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            nginx_syntax.main(str(self.root))
        return NginxFiles().read(said.getvalue().replace(str(self.root), ROOT).splitlines())

    def verdict(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        judged = verdict(self.files(), CONFIG, DATA)
        assert not judged.refused
        return judged.removed, judged.aside


def refusals(etc: Etc, **data: object) -> str:
    changed = DATA | data
    judged = verdict(etc.files(), nginx_config("bookworm", "CN00", changed), changed)
    return "\n".join(judged.refused)


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
    assert said in refusals(etc)
    assert f"{ROOT}/conf.d/shop.conf:" in refusals(etc)


def test_with_tls_the_name_of_our_sessions_is_taken_too(etc: Etc) -> None:
    etc.put("conf.d/shop.conf", "server { listen 8443 ssl; ssl_session_cache shared:okome_tls:1m; }")
    assert etc.verdict()[0] == ()
    assert "shop.conf:1 defines zone 'okome_tls'" in refusals(etc, tls_certificate="/etc/ssl/okome/cn00.pem")


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
    assert refusals(etc).startswith("/etc/nginx/nginx.conf:2 is a site of its own")


def test_a_symlink_to_nowhere_is_seen(etc: Etc) -> None:
    (etc.root / "sites-enabled/kome-cache.conf").symlink_to("../nowhere")
    assert etc.verdict()[0] == (f"{ROOT}/sites-enabled/kome-cache.conf",)


def test_the_welcome_page_goes_only_if_it_is_debians_own(etc: Etc) -> None:
    etc.put("sites-enabled/default", "server { listen 8080; root /srv/photos; }")
    assert refusals(etc).startswith("/etc/nginx/sites-enabled/default is not Debian's own")
    packaged = [replace(file, packaged=file.path.endswith("default")) for file in etc.files()]
    assert verdict(packaged, CONFIG, DATA) == Verdict((), (f"{ROOT}/nginx.conf",), ())


def test_our_own_files_do_not_collide_and_former_ones_give_way(etc: Etc) -> None:
    mark = "# Managed by the okome repository; changes made here are lost.\n"
    etc.put("nginx.conf", mark + NGINX_CONF)
    etc.put("conf.d/okome-server.conf", mark + KOME_CACHE)
    etc.put("conf.d/okome-former.conf", mark + "log_format okome_fmt x;")
    assert etc.verdict() == ((f"{ROOT}/conf.d/okome-former.conf",), ())


@pytest.mark.parametrize(
    ("listen", "collides"),
    [
        ("80", False),
        ("*:80", False),
        ("80 proxy_protocol", True),
        ("80 ssl", True),
        ("80 http2", True),
        ("80 backlog=64", True),
        ("80 reuseport", True),
        ("80 rcvbuf=8k", True),
        ("80 sndbuf=8k", True),
        ("80 deferred", True),
        ("80 so_keepalive=on", True),
        ("80 fastopen=3", True),
        ("80 setfib=1", True),
        ("80 accept_filter=httpready", True),
        ("80 quic", True),
        ("0.0.0.0:80 bind", True),
        ("70-90 reuseport", True),
        ("[::]:80", False),
        ("[::]:80 ipv6only=on", False),
        ("[::]:80 proxy_protocol", False),
        ("[::]:80 default_server", False),
        ("[::]:80 ipv6only=off", True),
        ("[::]:8080 ipv6only=off", False),
        ("unix:/run/nginx/80", False),
        ("unix:/run/shop.sock proxy_protocol", False),
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.0.0.1:8080", False),
        ("127.0.0.2:80", False),
        ("127.0.0.2:80 proxy_protocol", False),
        ("127.0.0.2:80 backlog=64", True),
        ("443 ssl http2", False),
        ("192.168.86.20:80", True),
        ("192.168.86.20", True),
        ("[fd00::20]:80", True),
        ("127.0.0.1:80", True),
        ("[::1]:80", False),
        ("8080", False),
        ("192.168.86.20:8080", False),
    ],
)
def test_a_listen_that_shares_or_takes_what_is_ours(etc: Etc, listen: str, collides: bool) -> None:
    etc.put("conf.d/shop.conf", f"server {{ listen {listen}; server_name shop; }}")
    assert ("shop.conf:1 " in refusals(etc)) == collides


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


def test_it_is_one_command_and_without_nginx_there_is_nothing(etc: Etc) -> None:
    etc.put("conf.d/shop.conf", "server { listen 8080; # 'quoted' \"\n }")
    for root, files in ((str(etc.root), etc.files()), (str(etc.root / "none"), ())):
        command = NginxFiles().command().replace(ROOT, root)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
        assert NginxFiles().process(done.stdout.replace(root, ROOT).splitlines()) == files


@pytest.mark.parametrize(
    ("listen", "collides"),
    [
        ("443 ssl http2", False),
        ("443 ssl", True),
        ("443", True),
        ("443 ssl http2 reuseport", True),
        ("[::]:443 ssl", False),
    ],
)
def test_with_tls_its_socket_is_shared_too(etc: Etc, listen: str, collides: bool) -> None:
    data = DATA | {"tls_certificate": "/etc/ssl/okome/cn00.pem"}
    config = nginx_config("bookworm", "CN00", data)
    etc.put("conf.d/shop.conf", f"server {{ listen {listen}; server_name shop; }}")
    judged = verdict(etc.files(), config, data)
    assert bool(judged.refused) == collides, judged.refused


LOST = """load_module modules/ngx_stream_module.so;
events {}
http {
    include conf.d/*.conf;
    include /etc/nginx/vhosts/*.conf;
    include
        "/etc/nginx/extra/*.conf";
    # include /etc/nginx/commented/*.conf;
    include /etc/nginx/none/*.conf;
    include mime.types;
}
stream {
    include /etc/nginx/stream.d/*.conf;
    server { listen 1884; proxy_pass 10.0.0.9:1884; }
}
mail { server { listen 25; } }
"""


def test_what_only_the_old_nginx_conf_reached_is_named_with_both_files(etc: Etc) -> None:
    etc.put("nginx.conf", LOST)
    etc.put("vhosts/shop.conf", "server { listen 8080; root /srv/shop; include inner/shop.conf; }")
    etc.put("inner/shop.conf", "index x;")
    etc.put("extra/b.conf", "server { listen 8081; return 204; }")
    etc.put("extra/empty.conf", "# nothing")
    etc.put("extra/old.conf", KOME_CACHE)  # all of it goes where ours goes
    etc.put("commented/c.conf", "server { listen 8082; }")
    etc.put("stream.d/mqtt.conf", "server { listen 1883; proxy_pass 10.0.0.9:1883; }")
    etc.put("conf.d/fine.conf", "server { listen 8083; return 204; }")
    judged = verdict(etc.files(), CONFIG, DATA)
    old, modules = f"{ROOT}/nginx.conf", f"say it in {ROOT}/modules-enabled"
    assert set(judged.refused) == {
        f"{old}:1 says load_module modules/ngx_stream_module.so, and ours does not: {modules}",
        f"{ROOT}/vhosts/shop.conf is read through {old}:5 alone, which ours replaces: include it in {ROOT}/conf.d",
        f"{ROOT}/extra/b.conf is read through {old}:6 alone, which ours replaces: include it in {ROOT}/conf.d",
        f"{ROOT}/stream.d/mqtt.conf is read through {old}:13 alone, which ours replaces:"
        f" include it in {ROOT}/modules-enabled",
        f"{old}:14 says stream server, and ours does not: {modules}",
        f"{old}:16 says mail server, and ours does not: {modules}",
    }


def test_of_what_a_module_brings_nothing_is_lost(etc: Etc) -> None:
    """modules-enabled is read with ours too; a stream that is there stays, unless it listens where ours does."""
    etc.put("modules-enabled/50-mod-stream.conf", "load_module modules/ngx_stream_module.so;")
    etc.put(
        "modules-enabled/60-mqtt.conf",
        "stream { upstream okome_orchestrator { server 10.0.0.9:1; } server { listen 1883; }"
        " server { listen 80 udp; } server { listen [::]:80; } }",
    )
    assert etc.verdict()[0] == ()
    etc.put("modules-enabled/70-more.conf", "stream {\nserver { listen 127.0.0.1:80; } }")
    assert f"{ROOT}/modules-enabled/70-more.conf:2 listens on 127.0.0.1:80, which is ours" in refusals(etc)


@pytest.mark.parametrize(
    "said",
    [
        "log_format shop '$uri';",
        "auth_basic closed;",
        "allow 10.0.0.0/8;",
        "client_max_body_size 2g;",
        "map $uri $shop { default 1; }",
        "upstream shop_app { server 10.0.0.9; }",
    ],
)
def test_what_a_site_had_from_the_old_nginx_conf_is_not_taken_from_it(etc: Etc, said: str) -> None:
    etc.put("nginx.conf", NGINX_CONF.replace("http {", f"http {{\n{said}"))
    assert etc.verdict()[0] == ()  # nobody had anything from it
    site = "server { listen 8080; access_log /x shop; return 200 $shop; location /a { proxy_pass http://shop_app; } }"
    etc.put("sites-enabled/shop", site)
    assert (
        f"{ROOT}/nginx.conf:3 says {' '.join(said.partition('{')[0].split()).rstrip(';')[:12]}"
        in refusals(etc).replace("'", "").replace(said.partition("'")[0], said.partition("'")[0])
    )


INHERITED = {
    "add_trailer X-A b;": "add_trailer",
    "limit_req_zone $binary_remote_addr zone=global:1m rate=1r/s;\nlimit_req zone=global;": "limit_req",
    "limit_conn addr 1;": "limit_conn",
    "sub_filter a b;": "sub_filter",
    "proxy_method POST;": "proxy_method",
    "more_set_headers 'Server: x';": "more_set_headers",  # a module's
    "brotli on;": "brotli",
    "sendfile off;": "sendfile, which nginx takes once",
    "default_type text/plain;": "default_type, which nginx takes once",
}


@pytest.mark.parametrize("text", INHERITED)
@pytest.mark.parametrize("through", [False, True], ids=["itself", "included"])
def test_what_would_be_inherited_and_has_no_off_collides(etc: Etc, text: str, through: bool) -> None:
    etc.put("shop/all.conf" if through else "conf.d/shop.conf", f"{text}\n")
    if through:
        etc.put("conf.d/shop.conf", "include\n  shop/*.conf;")
    line = text.count("\n") + 1
    file = f"{ROOT}/{'shop/all.conf' if through else 'conf.d/shop.conf'}"
    assert f"{file}:{line} sets {INHERITED[text]}" in refusals(etc)
    etc.put(
        "conf.d/shop.conf", f"server {{ listen 8080; {text.rpartition(chr(10))[2]} }}"
    )  # its own business
    assert etc.verdict()[0] == ()


def test_what_ours_says_itself_and_what_does_nothing_to_it_stays(etc: Etc) -> None:
    etc.put(
        "conf.d/tuning.conf",
        "open_file_cache max=10000 inactive=30s; set_real_ip_from 192.168.0.0/16; real_ip_header X-Forwarded-For;"
        " allow 10.0.0.1; deny all; auth_basic closed; gzip on; gzip_types *; keepalive_timeout 65; root /srv;"
        " client_max_body_size 1g; proxy_read_timeout 1h; fastcgi_read_timeout 1h; server_tokens off; types { a b; }"
        " ssl_protocols TLSv1.2; ssl_verify_client on; add_header A b; error_page 404 /x; geoip2 /x { $country c; }",
    )
    assert etc.verdict()[0] == ()
    tls = {"tls_certificate": "/etc/ssl/okome/cn00.pem"}
    etc.put("conf.d/tuning.conf", "ssl_protocols TLSv1.2;\nssl_ciphers ALL;\nssl_conf_command Options x;")
    assert refusals(etc, **tls).count(" sets ") == 1
    assert "tuning.conf:3 sets ssl_conf_command" in refusals(etc, **tls)


FAMILY = "server { listen 80 default_server; %s }"


@pytest.mark.parametrize(
    ("body", "strangers"),
    [
        ("root /var/www/family; location /api/ { proxy_pass http://192.168.86.25:8000/; }", True),
        ("location / { proxy_pass http://192.168.86.25:8000; } location /photos/ { alias /srv/photos/; }", True),
        ("location / { proxy_pass http://192.168.86.25:8000; } location /photos/ { root /srv; }", True),
        ("location / { try_files $uri @app; } location @app { proxy_pass http://192.168.86.25:8000; }", True),
        ("root /srv; location / { proxy_pass http://192.168.86.25:8000; location ~ jpg$ { expires 1d; } }", True),
        ("root /srv; location / { proxy_pass http://192.168.86.25:8000; }", False),
        ("root /srv; location / { proxy_pass http://192.168.86.25:8000; } location ~ /\\.ht { deny all; }", False),
        ("location / { proxy_pass http://192.168.86.25:8000; } location = /x { root /usr/share/nginx/html; }", False),
        ("location / { proxy_pass http://192.168.86.25:8000$request_uri; }", False),
        ("set $up 192.168.86.25:8000; location / { proxy_pass http://$up; }", False),
        ("set $up http://192.168.86.25:8000; location / { proxy_pass $up; }", False),
        ("set $up http://10.0.0.9:8000; location / { proxy_pass $up; }", True),
        ("location / { proxy_pass http://$host:8000; }", True),
        ("location / { proxy_pass http://192.168.86.25:8001; }", True),
        ("location / { return 200 hello; }", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["conf.d/family.conf", "sites-enabled/default"])
def test_a_site_is_the_older_systems_only_if_all_of_it_goes_to_the_orchestrator(
    etc: Etc, body: str, strangers: bool, where: str
) -> None:
    etc.put(where, FAMILY % body)
    if strangers:
        assert f"{ROOT}/{where}" in refusals(etc)
    elif where == "sites-enabled/default":
        assert etc.verdict() == ((), (f"{ROOT}/nginx.conf", f"{ROOT}/{where}"))
    else:
        assert etc.verdict()[0] == (f"{ROOT}/{where}",)


def test_an_upstream_may_stand_in_another_file(etc: Etc) -> None:
    etc.put("conf.d/app.conf", "upstream app { server 192.168.86.25:8000; }")
    etc.put("sites-enabled/app", FAMILY % "location / { proxy_pass http://app; }")
    assert etc.verdict()[0] == (f"{ROOT}/sites-enabled/app",)
    etc.put("conf.d/app.conf", "upstream app { server 192.168.86.25:8000; server 10.0.0.9 backup; }")
    assert "sites-enabled/app:1 defines default_server '80'" in refusals(etc)


def test_three_hundred_sites_are_read(etc: Etc) -> None:
    for number in range(300):
        etc.put(
            f"sites-enabled/{number}",
            f"server {{ listen 8080; server_name shop{number}; include snippets/tls.conf;\n"
            "location / { proxy_set_header Host $host; proxy_pass http://10.0.0.9; } }\n" * 5,
        )
    etc.put("snippets/tls.conf", "ssl_protocols TLSv1.3;")
    etc.put("sites-enabled/zzz", "server { listen 80 proxy_protocol; }")
    assert len(etc.files()) == 303
    assert f"{ROOT}/sites-enabled/zzz:1 listens on 80 proxy_protocol" in refusals(etc)


def test_all_that_stands_in_the_way_is_found_by_one_look(etc: Etc) -> None:
    etc.put("conf.d/shop.conf", "limit_req zone=x;\nsub_filter a b;")
    found = etc.files()
    assert len(look("bookworm", "CN00", DATA).findings(found)) == 2
    tls = look("bookworm", "CN00", DATA | {"tls_certificate": "/etc/ssl/cn00.pem"})
    assert [question.arguments for question in tls.questions] == [{}, {"path": "/etc/ssl/cn00.pem"}]
    assert len(tls.findings(found, "digest")) == 2
    assert "tls_certificate is /etc/ssl/cn00.pem" in tls.findings(found, None)[-1]
