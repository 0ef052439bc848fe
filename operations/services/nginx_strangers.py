"""What else is in nginx's configuration: what gives way to ours, and what ours can't stand beside."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from facts.files import Digest
from facts.nginx import ROOT, NginxFile, NginxFiles, read_all
from facts.several import Question
from operations.primitives.config_set import ConfigSet, rendered
from operations.primitives.managed import MARK
from operations.primitives.preflight import Look
from operations.services.nginx import nginx_config
from operations.services.nginx_meaning import (
    PASSES,
    VARIABLES,
    Place,
    definitions,
    listens,
    matching,
    opened,
    serves_files,
    speaks_itself,
    targets,
    unfolded,
    upstreams,
)
from operations.services.nginx_reach import unreachable

NGINX_CONF = f"{ROOT}/nginx.conf"

# --- what another file says for all of http, and so for our server too -----------------------------------------------

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


# --- what only the old nginx.conf reached -------------------------------------------------------------------------

# What a site can do without, what Debian's own nginx.conf says for everybody, and what `lost` tells of.
TUNING = {
    "load_module", "stream", "mail", "env",
    "user", "worker_processes", "worker_cpu_affinity", "worker_priority", "worker_rlimit_nofile", "worker_rlimit_core",
    "worker_shutdown_timeout", "pid", "pcre_jit", "events", "daemon", "lock_file", "timer_resolution", "thread_pool",
    "http", "include", "sendfile", "tcp_nopush", "tcp_nodelay", "default_type", "types",
    "types_hash_max_size", "types_hash_bucket_size", "server_names_hash_bucket_size", "server_names_hash_max_size",
    "map_hash_bucket_size", "map_hash_max_size", "variables_hash_bucket_size", "variables_hash_max_size",
    "keepalive_timeout", "keepalive_requests", "server_tokens", "ssl_protocols", "ssl_prefer_server_ciphers",
}  # fmt: skip
# What a site writes to beside ours that names no log of its own: Debian's nginx, where nobody says otherwise.
LOGS: dict[str, set[tuple[str, ...]]] = {
    "access_log": {("/var/log/nginx/access.log",), ("/var/log/nginx/access.log", "combined")},
    "error_log": {("/var/log/nginx/error.log",)},
}


def lost(
    old: NginxFile, found: Mapping[str, NginxFile], kept: set[str], gives_way: Callable[[NginxFile], bool]
) -> Iterator[str]:
    """One line for each thing that goes with the old nginx.conf: what it included and ours does not, what nginx does
    besides HTTP. `kept`: what is read with ours too."""
    for place in unfolded(old.path, found):
        one = place.directive
        if place.path != old.path:
            continue
        if one.name == "include" and one.args:
            for path in matching(one.args[0], found):
                file = found[path]
                if path not in kept and file.directives and not (file.packaged or gives_way(file)):
                    folder = "conf.d" if place.context[:1] == ("http",) else "modules-enabled"
                    yield f"{path} is read through {place} alone, which ours replaces: include it in {ROOT}/{folder}"
        elif one.name == "load_module" or (
            len(place.context) == 1 and place.context[0] not in ("http", "events")
        ):
            said = " ".join((*place.context, one.name, *one.args))
            yield f"{place} says {said}, and ours does not: say it in {ROOT}/modules-enabled"


def woken(old: NginxFile, found: Mapping[str, NginxFile], after: Iterable[str]) -> Iterator[str]:
    """One line for each file that the old nginx.conf leaves alone, and ours reads. A module does nothing by itself."""
    read = {place.path for place in unfolded(old.path, found)}
    for path in after:
        if path not in read and any(one.name != "load_module" for one in found[path].directives):
            yield f"{path} is read by nobody so far, and ours would: move it out of {PurePosixPath(path).parent}"


def orphaned(
    old: NginxFile, found: Mapping[str, NginxFile], kept: set[str], gives_way: Callable[[NginxFile], bool]
) -> Iterator[str]:
    """One line for each file with sites that is read through one that gives way, and through no other."""
    for place in unfolded(old.path, found):
        if place.directive.name != "include" or "server" in place.context or not place.directive.args:
            continue
        for path in matching(place.directive.args[0], found):
            file = found[path]
            sites = any(one.directive.name == "server" for one in unfolded(path, {path: file}))
            if path not in kept and sites and not (file.packaged or gives_way(file)):
                yield f"{path} is read through {place} alone, which gives way: include it in {ROOT}/conf.d"


def missed(old: NginxFile, staying: list[NginxFile]) -> Iterator[str]:
    """One line for each thing that sites which stay have from the old nginx.conf, and would not have from ours."""
    for place in unfolded(old.path, {old.path: old}):
        one = place.directive
        names = [defined.name for defined in definitions(place, ())]
        if names:
            users = [
                file.path
                for file in staying
                for name in names
                if re.search(rf"{re.escape(name)}\b", file.text)
            ]
        elif place.context not in ((), ("http",)) or (place.context == () and one.block is not None):
            continue  # a block other than http is lost, as is told elsewhere
        elif one.name in LOGS:
            told = one.args[: 1 if one.name == "error_log" else 2]  # what follows tunes
            users = (
                [] if told in LOGS[one.name] else [file.path for file in staying if silent(file, one.name)]
            )
        elif one.name not in TUNING | DEFINES and not one.name.startswith("gzip"):
            users = [file.path for file in staying]
        else:
            continue
        if users:
            yield f"{place} says {' '.join((one.name, *one.args))} for {users[0]}, and ours does not: say it there"


def silent(file: NginxFile, name: str) -> bool:
    """Whether a server of the file does not say it itself."""
    return any(
        name not in [one.name for one in place.directive.block or []]
        for place in unfolded(file.path, {file.path: file})
        if place.directive.name == "server" and place.context in ((), ("http",))
    )


# --- the verdict --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """`removed`: files of the older system; `aside`: paths of ours whose present content is kept; `refused`: one
    sentence for each thing of a stranger's that stands in the way, with file and line."""

    removed: tuple[str, ...]
    aside: tuple[str, ...]
    refused: tuple[str, ...]


def verdict(found: Iterable[NginxFile], config: ConfigSet, data: Mapping[str, object]) -> Verdict:
    """What gives way to our files, and what can't.

    A file is the older system's if it is called kome-cache*, or if it collides with ours, all its requests go to the
    orchestrator, and none is answered by itself or from a folder. Anything else that collides is a stranger's.
    """
    texts = {path: text.decode() for path, text in rendered(config, data).items() if text is not None}
    rendered_files = {file.path: file for file in read_all(texts)}
    us = ours(rendered_files)
    files = {file.path: file for file in found}
    groups = upstreams(files.values())
    after: dict[str, list[Place]] = {}
    for place in unfolded(NGINX_CONF, files | rendered_files):
        after.setdefault(place.path, []).append(place)

    def to_us(file: NginxFile) -> bool:
        whole = opened(file, files)
        where = targets(whole, groups)
        itself = serves_files(whole.directives) or speaks_itself(whole.directives)
        return bool(where) and where <= {data["orchestrator"]} and not itself

    def gives_way(file: NginxFile) -> bool:
        return named(file) or to_us(file)

    def named(file: NginxFile) -> bool:
        return PurePosixPath(file.path).name.startswith("kome-cache")

    old, aside, refused, staying = list[str](), list[str](), list[str](), list[NginxFile]()
    for file in files.values():
        if file.text.startswith(MARK):
            if file.path not in config.paths and file.loaded:
                old.append(file.path)  # of an earlier version of this repository
            continue
        if file.packaged:
            continue
        colliding = list(collisions(after.get(file.path, ()), us))
        if file.path in config.paths:
            if file.path not in texts and not to_us(file):
                refused.append(f"{file.path} is not Debian's own, and gives way: call it otherwise")
            sites = [
                place
                for place in unfolded(file.path, {file.path: file})
                if place.directive.name == "server" and place.context in ((), ("http",))
            ]
            if sites and file.path in texts and not to_us(file):
                refused.append(f"{sites[0]} is a site of its own: move it to a file of its own")
            aside.append(file.path)
        elif named(file) or (colliding and to_us(file)):
            old.append(file.path)
        elif colliding:
            refused.extend(colliding)
        else:
            places = after.get(file.path, [])
            refused.extend(unreachable(places))
            if any(place.directive.name == "server" for place in places):
                staying.append(file)
    before = files.get(NGINX_CONF)
    if before and not (before.packaged or before.text.startswith(MARK)):
        strangers = [
            path
            for path, file in files.items()
            if not (path in config.paths or file.packaged or file.text.startswith(MARK))
            if not gives_way(file)
        ]
        refused.extend(lost(before, files, set(after) | set(config.paths), gives_way))
        refused.extend(woken(before, files, (path for path in strangers if path in after)))
        refused.extend(missed(before, staying))
    if old:
        left = {path: file for path, file in (files | rendered_files).items() if path not in old}
        kept = {place.path for place in unfolded(NGINX_CONF, left)}
        for path in (path for path in old if files[path].loaded):
            refused.extend(orphaned(files[path], files, kept, gives_way))
    return Verdict(tuple(old), tuple(aside), tuple(dict.fromkeys(refused)))


def look(suite: str, node: str, data: Mapping[str, Any]) -> Look:
    """What stands in the way of nginx on a node called `node` that runs `suite`; `data` is the host's."""
    tls = str(data["tls_certificate"])
    certificate = (Question(Digest, {"path": tls}),) if tls else ()

    def findings(found: tuple[NginxFile, ...], *digests: str | None) -> list[str]:
        missing = [
            f"tls_certificate is {tls}, and the node has no such file: put it there"
            for one in digests
            if not one
        ]
        return [*verdict(found, nginx_config(suite, node, data), data).refused, *missing]

    return Look((Question(NginxFiles), *certificate), findings)
