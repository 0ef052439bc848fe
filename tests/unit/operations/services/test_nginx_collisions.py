"""What ours can't stand beside: names, sockets, and what is said for all of http."""

import pytest

from facts.nginx import ROOT
from operations.services.nginx import nginx_config
from operations.services.nginx_strangers import verdict
from tests.unit.operations.services.etc_nginx import DATA, KOME_CACHE, Etc, refusals


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
        ("js_shared_dict_zone zone=okome:1m;", "shop.conf:1 defines zone 'okome'"),
        ("lua_shared_dict api_limit 1m;", "shop.conf:1 defines zone 'api_limit'"),
        ("js_import okome_freshness from x.js;", "shop.conf:1 defines js_import 'okome_freshness'"),
        ("js_import shop/okome_freshness.js;", "shop.conf:1 defines js_import 'okome_freshness'"),
        ("scgi_cache_path /var/cache/./nginx//okome keys_zone=a:1m;", "cache_path '/var/cache/nginx/okome'"),
        ("proxy_cache_path /var/cache/nginx keys_zone=a:1m;", "shop.conf:1 keeps a cache in /var/cache/nginx,"),
        ("proxy_cache_path /var/cache/nginx/okome/a keys_zone=a:1m;", "shop.conf:1 keeps a cache in"),
        ("upstream OKOME_Fetch { server 10.0.0.9; }", "shop.conf:1 defines upstream 'okome_fetch'"),
        ("server { listen 80; server_name .cn00; }", "shop.conf:1 defines server_name 'cn00'"),
        ("server {\n server_name $hostname; }", "shop.conf:2 defines server_name '$hostname'"),
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


HIDDEN, READ_ONLY = "which our unit hides from nginx", "where our unit lets nginx write nothing"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("root /home/pi/www", HIDDEN),
        ("alias /root/photos/", HIDDEN),
        ("location /x { root /run/user/1000/www; }", HIDDEN),
        ("auth_basic_user_file /home/pi/.htpasswd", HIDDEN),
        ("ssl_certificate_key /root/shop.key", HIDDEN),
        ("root /tmp/www", HIDDEN),
        ("location /a { proxy_pass http://unix:/tmp/app.sock:/a; }", HIDDEN),
        ("location /a { fastcgi_pass unix:/home/pi/php.sock; }", HIDDEN),
        ("listen unix:/tmp/shop.sock", HIDDEN),
        ("access_log /srv/shop.log combined", READ_ONLY),
        ("error_log /home/pi/shop.log", HIDDEN),
        ("client_body_temp_path /srv/upload 1", READ_ONLY),
        ("root /srv/home", ""),
        ("location /home/ { proxy_pass http://10.0.0.9/home/x; }", ""),
        ("rewrite ^ /tmp/x", ""),
        ("access_log /var/log/nginx/$host.log", ""),
        ("access_log syslog:server=unix:/dev/log", ""),
        ("error_log /dev/null", ""),
        ("access_log off", ""),
        ("client_body_temp_path /tmp/upload", ""),
        ("ssl_ciphers HIGH", ""),
        ("listen unix:/run/shop.sock", ""),
    ],
)
def test_what_a_site_will_not_reach_any_more_is_named(etc: Etc, said: str, why: str) -> None:
    end = "" if said.endswith("}") else ";"
    etc.put("conf.d/shop.conf", f"server {{ listen 8080;\n{said}{end} }}")
    assert ("shop.conf:2 says" in refusals(etc)) == bool(why)
    assert why in refusals(etc)


def test_so_are_caches_and_upstreams_of_all_of_http(etc: Etc) -> None:
    etc.put(
        "conf.d/shop.conf",
        "proxy_cache_path /data/nginx/cache keys_zone=shop:1m;\nupstream shop { server unix:/tmp/shop.sock; }",
    )
    cache, upstream = refusals(etc).splitlines()
    assert cache.startswith(f"{ROOT}/conf.d/shop.conf:1 says proxy_cache_path /data/nginx/cache")
    assert upstream.startswith(f"{ROOT}/conf.d/shop.conf:2 says server unix:/tmp/shop.sock")
