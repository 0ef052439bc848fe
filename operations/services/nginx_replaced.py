"""What goes with an old nginx.conf that ours replaces, or comes alive without it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from facts.nginx import ROOT, NginxFile
from operations.services.nginx_collisions import DEFINES
from operations.services.nginx_meaning import definitions, matching, unfolded

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
