"""What gives way to our nginx configuration, what is a stranger's, and what would be lost: on real files, which the
fact's own command reads."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from facts.nginx import ROOT, NginxFiles
from operations.services.nginx_strangers import Verdict, look, verdict
from tests.unit.operations.services.etc_nginx import CONFIG, DATA, KOME_CACHE, LOST, NGINX_CONF, Etc, refusals


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
    assert verdict(etc.files(), CONFIG, DATA).removed == (
        str(elsewhere),
    )  # (which is in /tmp: that is refused)


def test_a_stranger_who_does_not_collide_stays(etc: Etc) -> None:
    etc.put(
        "conf.d/shop.conf",
        "upstream shop { zone shop 1m; server 10.0.0.9; } server { listen 8080; server_name cn00; }"
        " ssl_session_cache shared:shop_tls:1m; fastcgi_cache_path /var/cache/nginx/shop keys_zone=shop_cache:1m;"
        " proxy_cache_path /var/cache/nginx/okome2 keys_zone=shop:1m; js_import shop from x.js;"
        " server { listen 8010; server_name $hostname .cn00; }",
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
        f"{old}:17 says rtmp server, and ours does not: {modules}",
    }


@pytest.mark.parametrize(
    "include", ["'my vhosts/*'", "my\\ vhosts/*", "my?vhosts/[^b]*", "my*/[!b].conf", '"my vhosts/a.conf"']
)
def test_an_include_is_read_as_glob_reads_it(etc: Etc, include: str) -> None:
    etc.put("nginx.conf", NGINX_CONF.replace("http {", f"http {{ include {include};"))
    etc.put("my vhosts/a.conf", "server { listen 8080; }")
    assert f"{ROOT}/my vhosts/a.conf is read through {ROOT}/nginx.conf:2 alone" in refusals(etc)


def test_what_is_read_through_a_file_that_gives_way_is_named(etc: Etc) -> None:
    etc.put("conf.d/kome-cache.conf", f"{KOME_CACHE}\ninclude vhosts/*;\ninclude maps/*;")
    etc.put("vhosts/shop", "server { listen 8080; return 204; }")
    etc.put(
        "vhosts/ours", FAMILY % "location / { proxy_pass http://kome; }"
    )  # all of it goes where ours goes
    etc.put("maps/kome", "map $uri $kome { default 1; }")
    said = f"{ROOT}/vhosts/shop is read through {ROOT}/conf.d/kome-cache.conf:11 alone, which gives way: "
    assert refusals(etc) == f"{said}include it in {ROOT}/conf.d"
    etc.put("conf.d/shop.conf", "include vhosts/shop;")
    assert refusals(etc) == ""
    (etc.root / "conf.d/kome-cache.conf").rename(etc.root / "sites-available/kome-cache.conf")
    (etc.root / "conf.d/shop.conf").unlink()
    assert refusals(etc) == ""  # nginx did not read it before either


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


def test_what_the_old_nginx_conf_left_alone_does_not_come_alive(etc: Etc) -> None:
    site = "server { listen 8080; return 204; include snippets/a.conf; }"
    etc.put("nginx.conf", "events {}\nhttp { include sites-enabled/*.conf; }\n")
    etc.put("sites-enabled/on.conf", site)
    etc.put("sites-enabled/off", site)
    etc.put("sites-enabled/kome-cache", KOME_CACHE)
    etc.put("sites-enabled/empty", "# nothing")
    etc.put("conf.d/off.conf", "gzip on;")
    etc.put("modules-enabled/50-mod-http-js.conf", "load_module modules/ngx_http_js_module.so;")
    etc.put("modules-enabled/off.conf", "stream { server { listen 1883; proxy_pass 10.0.0.9:1883; } }")
    etc.put("snippets/a.conf", "allow all;")
    assert set(refusals(etc).splitlines()) == {
        f"{ROOT}/{folder}/{name} is read by nobody so far, and ours would: move it out of {ROOT}/{folder}"
        for folder, name in (
            ("sites-enabled", "off"),
            ("conf.d", "off.conf"),
            ("modules-enabled", "off.conf"),
        )
    }


LOG = "/var/log/nginx/access.log"


@pytest.mark.parametrize(
    ("said", "site", "named"),
    [
        ("access_log /srv/all.log", "", True),
        (f"access_log {LOG} shop", "", True),
        ("access_log off", "", True),
        ("access_log off", "access_log /var/log/nginx/shop.log;", False),
        ("access_log off", "location / { access_log /var/log/nginx/shop.log; }", True),
        ("error_log /srv/errors.log", "", True),
        ("error_log /srv/errors.log", "error_log /var/log/nginx/shop.log;", False),
        # As it will be anyway.
        (f"access_log {LOG}", "", False),
        (f"access_log {LOG} combined buffer=4k", "", False),
        ("error_log /var/log/nginx/error.log info", "", False),
    ],
)
def test_a_site_without_a_log_of_its_own_does_not_write_elsewhere_in_silence(
    etc: Etc, said: str, site: str, named: bool
) -> None:
    etc.put("nginx.conf", NGINX_CONF.replace("http {", f"http {{\n{said};"))
    etc.put("conf.d/app.conf", "upstream app { server 10.0.0.9; }")
    assert etc.verdict()[0] == ()  # nobody logs
    etc.put("sites-enabled/shop", f"server {{ listen 8080; {site} }}")
    expected = (
        f"{ROOT}/nginx.conf:3 says {said} for {ROOT}/sites-enabled/shop, and ours does not: say it there"
    )
    assert refusals(etc) == (expected if named else "")


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
        ("location / { proxy_pass http://192.168.86.25:8000; } } server { listen 81; return 200 x;", True),
        ("location / { proxy_pass http://192.168.86.25:8000; } } server { listen 81; return 301 http://$host;", False),
        ("location / { proxy_pass http://192.168.86.25:8000; } include photos/*.conf;", True),
        ("location / { proxy_pass http://192.168.86.25:8000; } include proxy/*.conf;", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["conf.d/family.conf", "sites-enabled/default"])
def test_a_site_is_the_older_systems_only_if_all_of_it_goes_to_the_orchestrator(
    etc: Etc, body: str, strangers: bool, where: str
) -> None:
    etc.put("photos/all.conf", "location /photos/ { alias /srv/photos/; }")
    etc.put("proxy/all.conf", "proxy_read_timeout 1h;")
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
