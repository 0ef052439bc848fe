"""What another file says for all of http, and so for our server too, and what it defines or listens on as ours does."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from facts.nginx import ROOT, NginxFile
from operations.services.nginx_meaning import (
    PASSES,
    VARIABLES,
    Place,
    definitions,
    listens,
    unfolded,
)

NGINX_CONF = f"{ROOT}/nginx.conf"

# What only defines something by a name, or sizes a table that all servers share.
DEFINES = {
    *VARIABLES, "server", "upstream", "log_format", "include", "limit_req_zone", "limit_conn_zone",
    "proxy_cache_path", "fastcgi_cache_path", "uwsgi_cache_path", "scgi_cache_path", "charset_map", "match",
    "geoip_city", "geoip_country", "geoip_org", "geoip_proxy", "geoip_proxy_recursive", "geoip2", "geoip2_proxy",
    "geoip2_proxy_recursive", "keyval", "keyval_zone", "perl_modules", "perl_require", "perl_set",
    "js_import", "js_include", "js_path", "js_set", "js_preload_object", "js_shared_dict_zone",
    "lua_package_path", "lua_package_cpath", "lua_shared_dict", "types", "types_hash_bucket_size",
    "types_hash_max_size", "map_hash_bucket_size", "map_hash_max_size", "server_names_hash_bucket_size",
    "server_names_hash_max_size", "variables_hash_bucket_size", "variables_hash_max_size", "http2_recv_buffer_size",
    "proxy_headers_hash_bucket_size", "proxy_headers_hash_max_size", "session_log_format", "session_log_zone",
}  # fmt: skip
# Why what is called so, or begins so, does nothing to a server whose requests all go to proxy_pass, over plain HTTP.
HARMLESS = {
    "fastcgi_": "wants fastcgi_pass",
    "uwsgi_": "wants uwsgi_pass",
    "scgi_": "wants scgi_pass",
    "grpc_": "wants grpc_pass",
    "memcached_": "wants memcached_pass",
    "proxy_ssl_": "wants a pass to https",
    "image_filter_": "wants image_filter, which a location has",
    "xslt_": "wants xslt_stylesheet, which a location has",
    "mp4_": "wants mp4, which a location has",
    "hls_": "wants hls, which a location has",
    "f4f_": "wants f4f, which a location has",
    "spdy_": "left nginx with 1.9.5",
    "autoindex": "lists folders, and no request of ours ends in one",
    "ancient_browser": "makes a variable",
    "modern_browser": "makes a variable",
    "secure_link": "makes a variable",
    "http3": "wants listen … quic, which ours has not",
    "quic": "wants listen … quic",
    # ours says off to what these tune
    "addition_types": "tunes add_before_body",
    "auth_basic_user_file": "tunes auth_basic",
    "auth_delay": "tunes auth_basic",
    "auth_request_set": "tunes auth_request",
    "charset_types": "tunes charset",
    "deny": "is one list with allow",
    "gunzip_buffers": "tunes gunzip",
    "gzip_": "tunes gzip; gzip_static is about files",
    "limit_conn_": "tunes limit_conn",
    "limit_req_log_level": "tunes limit_req",
    "limit_req_status": "tunes limit_req",
    "mirror_request_body": "tunes mirror",
    "open_file_cache_events": "is about kqueue",
    "override_charset": "tunes charset",
    "postpone_gzipping": "tunes gzip",
    "proxy_store_access": "tunes proxy_store",
    "real_ip_": "tunes set_real_ip_from",
    "source_charset": "tunes charset",
    "ssi_": "tunes ssi",
    "sub_filter_": "tunes sub_filter, which collides itself",
    "userid_": "tunes userid",
    # files, which ours serves none of
    "create_full_put_path": "is about files",
    "dav_": "a pass is in its place",
    "min_delete_depth": "is about files",
    "etag": "makes one for files",
    "index": "names files",
    "log_not_found": "is about files",
    "root": "names a folder of files",
    "directio_alignment": "is about files",
    "output_buffers": "is about files read without sendfile",
    "read_ahead": "is about files",
    "sendfile_max_chunk": "is about files; a worker's share of a large one",
    # elsewhere, or nowhere
    "msie_": "pads error pages of nginx's own",
    "proxy_send_lowat": "is FreeBSD's",
    "send_lowat": "is FreeBSD's",
    "resolver": "no name of ours is resolved while nginx runs",
    "rewrite_log": "is about nginx's log of notices, which ours does not ask for",
    "uninitialized_variable_warn": "is about a warning in the log",
    "open_log_file_cache": "is about logs with variables in their path",
    "subrequest_output_buffer_size": "is about ssi",
    "proxy_temp_file_write_size": "sizes writes",
    "xml_entities": "wants xslt_stylesheet",
}
# TLS 1.3 alone, without tickets and client certificates: what tunes the rest tunes nothing.
HARMLESS_TO_TLS = {
    "ssl_ciphers", "ssl_client_certificate", "ssl_crl", "ssl_dhparam", "ssl_ecdh_curve", "ssl_password_file",
    "ssl_session_ticket_key", "ssl_stapling_file", "ssl_stapling_responder", "ssl_stapling_verify",
    "ssl_trusted_certificate", "ssl_verify_depth", "ssl_ocsp_cache", "ssl_ocsp_responder",
}  # fmt: skip
# What nginx takes more than once on one level.
REPEATABLE = {"access_log", "error_log"}


@dataclass(frozen=True)
class Ours:
    """What our files say, as far as it matters to others."""

    defined: frozenset[tuple[str, str]]  # kind, name
    ports: dict[int, frozenset[str]]  # what of `listen` all servers on that port have to agree on
    http: frozenset[str]  # directives on the http level that nginx takes once
    own: frozenset[str]  # directives that our servers say themselves, wherever they pass requests on


PROTOCOLS = {"ssl", "http2", "proxy_protocol", "quic"}


def ours(files: Mapping[str, NginxFile]) -> Ours:
    places = list(unfolded(NGINX_CONF, files))
    ports: dict[int, frozenset[str]] = {}
    for place in places:
        if place.directive.name == "server" and place.context == ("http",):
            for one in listens(place.directive):
                ports[one.ports[0]] = ports.get(one.ports[0], frozenset()) | one.words & PROTOCOLS
    levels: dict[tuple[str, ...], dict[int, set[str]]] = {}
    for place in places:
        innermost = id(place.within[-1]) if place.within else 0
        levels.setdefault(place.context, {}).setdefault(innermost, set()).add(place.directive.name)
    sites = {id(place.within[-1]): id(place.within[1]) for place in places if len(place.within) > 2}
    passing = {
        block: names | levels["http", "server"][sites[block]]
        for block, names in levels["http", "server", "location"].items()
        if names & PASSES
    }
    # Where the cache is off nobody asks how it is tuned, nor for certificates where there is no TLS.
    uncached = {
        id(place.within[-1])
        for place in places
        if place.directive.name == "proxy_cache" and place.directive.args == ("off",)
    }
    secured = {site for site in sites.values() if "ssl_certificate" in levels["http", "server"][site]}

    def asked(name: str, block: int) -> bool:
        if name.startswith("ssl_"):
            return sites[block] in secured
        return block not in uncached or not name.startswith(("proxy_cache_", "proxy_no_cache"))

    own = {
        name
        for name in set[str]().union(*passing.values())
        if all(name in names or not asked(name, block) for block, names in passing.items())
    }
    http = {name for names in levels["http",].values() for name in names}
    defined = {(one.kind, one.name) for place in places for one in definitions(place, ports)}
    # Ours has the node's name, and so has who says $hostname.
    named = {name.rpartition(":") for kind, name in defined if kind == "server_name"}
    defined |= {("server_name", f"$hostname:{port}") for name, _, port in named if name}
    return Ours(
        frozenset(defined),
        ports,
        frozenset(http - DEFINES - REPEATABLE),
        frozenset(own),
    )


def _of(name: str, family: str) -> bool:
    return name == family or name.startswith(family if family.endswith("_") else f"{family}_")


def inherited(name: str, us: Ours) -> bool:
    """Whether a directive on the http level of another file changes what our server does."""
    if name in DEFINES or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return False  # what is no name nginx itself refuses, with its line
    if name.startswith(("ssl_", "http2_")):
        return any("ssl" in words for words in us.ports.values()) and name not in us.own | HARMLESS_TO_TLS
    return name not in us.own and not any(_of(name, family) for family in HARMLESS)


# --- one file beside ours -------------------------------------------------------------------------------------


def _listening(place: Place, us: Ours) -> Iterator[str]:
    """What a server's addresses do to ours, and what is to be done."""
    port_of_its_own = "give it another port"
    for one in listens(place.directive):
        where = f"{place.path}:{one.line} listens on {one.text}"
        for port, agreed in us.ports.items():
            if not one.has(port):
                continue
            options = {word for word in one.words if word not in ("default_server", "default", "ipv6only=on")}
            if place.context[0] != "http":
                if "udp" not in one.words and not (one.host.startswith("[") and not one.everybody):
                    yield f"{where}, which is ours: {port_of_its_own}"
            elif one.everybody:
                if "ipv6only=off" in options:
                    yield f"{where}, IPv4 included, which is ours: take ipv6only=off out"
                elif options - agreed or (options & PROTOCOLS) != agreed:
                    yield f"{where}, one socket with ours, which does not say so: {port_of_its_own}"
            elif one.host in ("127.0.0.1", "localhost"):
                yield f"{where}, where this node asks its own nginx: {port_of_its_own}"
            elif one.host.startswith("127.") and options - PROTOCOLS:
                yield f"{where}, a socket of its own on a port that ours has: {port_of_its_own}"
            elif not one.loopback and one.host != "[::]":
                yield f"{where}, and takes all that comes to that address: {port_of_its_own}"


def _nested(one: str, other: str) -> bool:
    """Whether one folder is in the other: a cache counts all that is below its own, and deletes what it can't read,
    an answer that is just being written for one (ngx_http_file_cache_manage_file)."""
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)


def collisions(places: Iterable[Place], us: Ours) -> Iterator[str]:
    """One line for each thing of a file that disturbs ours, or is disturbed by it. `places`: the file's own."""
    for place in places:
        name = place.directive.name
        for one in definitions(place, us.ports):
            if (one.kind, one.name) in us.defined:
                said = one.name.removesuffix(":80")
                yield f"{place.path}:{one.line} defines {one.kind} {said!r}, as ours does: rename it"
            elif one.kind == "cache_path" and any(
                _nested(one.name, path) for kind, path in us.defined if kind == "cache_path"
            ):
                yield f"{place.path}:{one.line} keeps a cache in {one.name}, and ours with it: give it its own folder"
        if name == "server" and place.context in (("http",), ("stream",), ("mail",)):
            yield from _listening(place, us)
        if place.context == ("http",):
            if name in us.http:
                yield f"{place} sets {name}, which nginx takes once, and ours has it: take it out"
            elif inherited(name, us):
                yield f"{place} sets {name} for every server, ours included: move it into the server it is for"
