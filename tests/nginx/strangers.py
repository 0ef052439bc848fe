"""What a stranger may say for all of http, at its worst; and nginx's own table of what can be said there."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

# Each directive that ours says itself, with what would disturb ours most. That it covers them all is tested.
WORST = r"""
allow 10.0.0.1;
deny all;
satisfy any;
auth_basic closed;
auth_basic_user_file /dev/null;
auth_request /nowhere;
set_real_ip_from 192.168.0.0/16;
set_real_ip_from 127.0.0.0/8;
real_ip_header X-Forwarded-For;
client_body_buffer_size 1k;
client_body_in_file_only on;
client_body_in_single_buffer on;
client_body_temp_path /var/lib/nginx/shop 1;
client_body_timeout 1ms;
client_header_buffer_size 16;
client_header_timeout 1ms;
client_max_body_size 1k;
ignore_invalid_headers off;
connection_pool_size 16k;
large_client_header_buffers 1 16k;
request_pool_size 16k;
merge_slashes off;
underscores_in_headers on;
absolute_redirect off;
add_after_body /nowhere;
add_before_body /nowhere;
addition_types *;
add_header X-OKOME-Node shop always;
charset koi8-r;
charset_types *;
chunked_transfer_encoding off;
error_page 400 403 404 405 413 429 500 502 503 504 =200 /nowhere;
expires 1h;
gunzip on;
gzip on;
gzip_min_length 1;
gzip_proxied any;
gzip_types *;
if_modified_since off;
port_in_redirect off;
postpone_output 100000;
recursive_error_pages on;
server_name_in_redirect on;
server_tokens on;
slice 1;
ssi on;
ssi_types *;
userid on;
aio threads;
aio_write on;
directio 1;
disable_symlinks on;
open_file_cache max=10000 inactive=30s;
open_file_cache_errors on;
open_file_cache_min_uses 1000;
open_file_cache_valid 60s;
keepalive_disable safari;
keepalive_requests 1;
keepalive_time 1ms;
keepalive_timeout 0;
limit_rate 1;
limit_rate_after 1;
limit_req_dry_run on;
limit_req_status 503;
lingering_close off;
lingering_time 1ms;
lingering_timeout 1ms;
reset_timedout_connection on;
send_timeout 1ms;
tcp_nodelay off;
access_log /var/log/nginx/shop.log;
error_log /var/log/nginx/shop-error.log emerg;
log_subrequest on;
mirror /nowhere;
proxy_bind 127.0.0.1;
proxy_buffer_size 512;
proxy_buffering off;
proxy_buffers 2 512;
proxy_busy_buffers_size 512;
proxy_cache off;
proxy_cache_background_update on;
proxy_cache_bypass 1;
proxy_cache_convert_head off;
proxy_cache_key one;
proxy_cache_lock on;
proxy_cache_lock_age 1ms;
proxy_cache_lock_timeout 1ms;
proxy_cache_methods POST;
proxy_cache_min_uses 1000;
proxy_cache_revalidate on;
proxy_cache_use_stale updating;
proxy_cache_valid any 10m;
proxy_connect_timeout 1ms;
proxy_cookie_domain ~. shop.example;
proxy_cookie_flags ~. secure;
proxy_cookie_path ~. /shop;
proxy_force_ranges on;
proxy_hide_header Date;
proxy_http_version 1.0;
proxy_ignore_client_abort on;
proxy_ignore_headers Cache-Control Vary Set-Cookie;
proxy_intercept_errors on;
proxy_limit_rate 1;
proxy_max_temp_file_size 1k;
proxy_next_upstream off;
proxy_next_upstream_timeout 1ms;
proxy_next_upstream_tries 1;
proxy_no_cache 1;
proxy_pass_request_body off;
proxy_pass_request_headers off;
proxy_read_timeout 1ms;
proxy_redirect http:// ftp://;
proxy_request_buffering off;
proxy_send_timeout 1ms;
proxy_set_header Host shop.example;
proxy_socket_keepalive on;
proxy_store on;
proxy_temp_path /var/lib/nginx/shop_proxy 1;

root /var/www/shop;
index index.php;
autoindex on;
etag off;
fastcgi_param HTTPS on;
resolver 127.0.0.1;
sub_filter_once off;
dav_methods PUT;
server {
    listen 8080;
    listen [::]:80;
    listen unix:/run/shop.sock;
    server_name shop.example;
    return 204;
}
"""
# What ours could not stand beside with plain HTTP: what has no word for "no" …
COLLIDING = {
    "add_trailer", "limit_conn", "limit_req", "max_headers", "max_ranges", "post_action",
    "proxy_cache_max_range_offset", "proxy_method", "proxy_pass_header", "proxy_set_body", "ssl", "sub_filter",
    # … what ours says for all of http …
    "default_type", "sendfile", "tcp_nopush",
    # … and what is another's than Debian's nginx: its commercial version's, a module's, a former one's.
    "auth_jwt", "auth_jwt_claim_set", "auth_jwt_header_set", "auth_jwt_key_file", "auth_jwt_key_request",
    "auth_jwt_leeway", "limit_zone", "proxy_cache_purge", "session_log", "status_format",
}  # fmt: skip
COLLIDING_WITH_TLS = COLLIDING | {
    "http2_body_preread_size", "http2_chunk_size", "http2_idle_timeout", "http2_max_concurrent_pushes",
    "http2_max_concurrent_streams", "http2_max_field_size", "http2_max_header_size", "http2_max_requests",
    "http2_pool_size", "http2_push", "http2_push_preload", "http2_recv_timeout", "http2_streams_index_size",
    "ssl_conf_command", "ssl_ocsp",
}  # fmt: skip

# ngx_http_config.h: valid on the http level. ngx_event.h has the same bit for events.
HTTP_MAIN = 0x02000000
EVENTS = {
    "accept_mutex", "accept_mutex_delay", "debug_connection", "epoll_events", "multi_accept", "use",
    "worker_aio_requests", "worker_connections",
}  # fmt: skip


def table(program: Path) -> Iterator[str]:
    """The directives that an nginx knows on the http level, from the tables compiled into it.

    Each entry is an ngx_command_t: length of the name, pointer to it, type … . The program is position-independent, so
    the pointers are in its relocations (24 bytes: where, kind, what).
    """
    data = program.read_bytes()
    start, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + number * size) for number in range(count)]

    def at(address: int) -> int:
        """Where in the file it is; 0 if it is nowhere."""
        for _, kind, _, begins, offset, length, *_ in sections:
            if kind != 8 and begins and begins <= address < begins + length:  # SHT_NOBITS
                return int(offset + address - begins)
        return 0

    for _, kind, _, _, offset, length, *_ in sections:
        if kind != 4:  # SHT_RELA
            continue
        for where, _, what in struct.iter_unpack("<QQq", data[offset : offset + length]):
            entry, name = at(where - 8), at(what) if what > 0 else 0
            if not (entry and name):
                continue
            characters, _, bits = struct.unpack_from("<QQQ", data, entry)
            if 0 < characters < 64 and bits & HTTP_MAIN and bits < 1 << 32:
                word = data[name : name + characters + 1]
                if re.fullmatch(rb"[a-z][a-z0-9_]*\0", word) and word[:-1].decode() not in EVENTS:
                    yield word[:-1].decode()
