"""What nginx's configuration defines, read from its files: `nginx -T` says nothing when two collide."""

import base64
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crossplane

from facts.answer import Answer

ROOT = "/etc/nginx"
CACHES = {"proxy_cache_path", "fastcgi_cache_path", "uwsgi_cache_path", "scgi_cache_path"}
# What names shared memory, and where: all of it is one namespace, and nginx refuses a name that two modules claim.
ZONES = {
    "limit_req_zone": "zone=",
    "limit_conn_zone": "zone=",
    "ssl_session_cache": "shared:",
    "ssl_ocsp_cache": "shared:",
    **dict.fromkeys(CACHES, "keys_zone="),
}
PASSES = {"proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass"}
VARIABLES = {"map", "geo", "split_clients"}


@dataclass(frozen=True)
class Definition:
    """Something that may exist once only. `kind` is the directive (`zone` for every kind of shared memory,
    `cache_path` for every kind of cache's folder); for a server, `name` is NAME:PORT, or the port alone where it is the
    default server."""

    kind: str
    name: str
    line: int


@dataclass(frozen=True)
class NginxFile:
    """One file. `targets` is where its requests go, HOST:PORT as written; `packaged`: as Debian's package
    brought it; `loaded`: nginx reads it (or will, as soon as it includes the usual folders)."""

    path: str
    loaded: bool
    packaged: bool
    text: str
    definitions: tuple[Definition, ...] = ()
    targets: tuple[str, ...] = ()


def _complete(directives: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without those that lack their argument: nginx itself refuses them, with their line."""
    for directive in directives:
        nameless = directive["directive"] in {"upstream", *VARIABLES}
        if directive["args"] or ("block" in directive and not nameless):
            yield directive


def _size_less(value: str) -> str:
    return value.partition(":")[0]


def _server(block: list[dict[str, Any]], line: int) -> Iterator[Definition]:
    names: list[tuple[str, int]] = []
    ports: set[str] = set()
    for directive in _complete(block):
        if directive["directive"] == "server_name":
            names += [(name.lower(), directive["line"]) for name in directive["args"]]
        elif directive["directive"] == "listen":
            address, *words = directive["args"]
            port = address.rpartition(":")[2] if not address.endswith("]") else "80"
            port = port if port.isdigit() else "80"
            ports.add(port)
            # A listen on an address of its own takes all that comes to that address, default or not.
            host = address.rpartition(":")[0] if ":" in address else address
            everybody = ("", "*", "0.0.0.0", "[::]")  # noqa: S104 - read in a stranger's file, bound by nobody here
            off_the_lan = host.startswith("127.") or host in ("[::1]", "unix", "localhost")
            own = not (host.isdigit() or host in everybody or off_the_lan)
            if "default_server" in words or "default" in words or own:
                yield Definition("default_server", port, directive["line"])
    for name, where in names or [("", line)]:
        for port in sorted(ports or {"80"}):
            yield Definition("server_name", f"{name}:{port}", where)


def definitions(directives: list[dict[str, Any]]) -> Iterator[Definition]:
    """Of crossplane's parsed directives, those that define something, at any depth."""
    for directive in _complete(directives):
        kind, args, line = directive["directive"], directive["args"], directive["line"]
        block = directive.get("block", [])
        if kind in ZONES:
            zones = [arg.removeprefix(ZONES[kind]) for arg in args if arg.startswith(ZONES[kind])]
            yield from (Definition("zone", _size_less(zone), line) for zone in zones)
            if kind in CACHES:
                yield Definition("cache_path", args[0].rstrip("/"), line)
        elif kind in ("upstream", "log_format"):
            yield Definition(kind, args[0], line)
            yield from (
                Definition("zone", one["args"][0], one["line"])
                for one in _complete(block)
                if one["directive"] == "zone"
            )
        elif kind in VARIABLES:
            yield Definition("map", args[-1], line)
        elif kind == "server" and "block" in directive:
            yield from _server(block, line)
        if kind != "upstream" and kind not in VARIABLES:
            yield from definitions(block)


def targets(directives: list[dict[str, Any]], within: str = "") -> Iterator[str]:
    """Where requests go: servers of upstreams, and passes to something that is not an upstream's name."""
    for directive in _complete(directives):
        kind, args = directive["directive"], directive["args"]
        if (kind == "server" and within == "upstream") or kind in PASSES:
            target = args[0].partition("://")[2] or args[0]
            yield target if target.startswith("unix:") else target.partition("/")[0]
        yield from targets(directive.get("block", []), kind)


def read(path: str, text: str, *, loaded: bool, packaged: bool) -> NginxFile:
    """What one file defines. A file that is no nginx configuration defines nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "nginx.conf")
        file.write_text(text)
        parsed = crossplane.parse(str(file), single=True, strict=False, check_ctx=False, check_args=False)
    directives: list[dict[str, Any]] = [one for config in parsed["config"] for one in config["parsed"]]
    found = tuple(definitions(directives))
    upstreams = {definition.name for definition in found if definition.kind == "upstream"}
    goes_to = sorted({target for target in targets(directives) if target not in upstreams})
    return NginxFile(path, loaded, packaged, text, found, tuple(goes_to))


def parse(output: list[str]) -> tuple[NginxFile, ...]:
    """Two lines for each file: `loaded|idle packaged|changed PATH`, and its content in base64."""
    files = []
    for head, content in zip(output[::2], output[1::2], strict=True):
        loaded, packaged, path = head.split(" ", 2)
        text = base64.b64decode(content).decode(errors="replace")
        files.append(read(path, text, loaded=loaded == "loaded", packaged=packaged == "packaged"))
    return tuple(files)


def read_all(files: Mapping[str, str]) -> tuple[NginxFile, ...]:
    """The same of files that are here: path -> text."""
    return tuple(read(path, text, loaded=True, packaged=False) for path, text in files.items())


class NginxFiles(Answer[tuple[NginxFile, ...]]):
    """Every file that nginx reads, wherever its includes lead, and every kome-cache* below /etc/nginx.

    Works with a configuration that nginx refuses, and without nginx; one command.

    **Example:**

    .. code:: python

        host.get_fact(NginxFiles)
    """

    def command(self) -> str:
        return rf"""
            test -d {ROOT} || exit 0
            cd {ROOT} && seen=$(mktemp) || exit 1
            trap 'rm -f "$seen"' EXIT
            packaged=$(dpkg-query -W -f '${{Conffiles}}\n' nginx-common nginx 2>/dev/null)
            show() {{
                state=$1; shift
                for file; do
                    test -f "$file" -o -L "$file" && ! grep -qxF -e "$file" "$seen" || continue
                    printf '%s\n' "$file" >>"$seen"
                    real=$(readlink -f -- "$file")
                    case $packaged in
                        *" $real $(md5sum <"$real" 2>/dev/null | cut -c -32)"*) origin=packaged ;;
                        *) origin=changed ;;
                    esac
                    printf '%s %s %s\n' "$state" "$origin" "$file"
                    # A symlink to nowhere is fatal to nginx, and reads as an empty file here.
                    test -f "$file" || {{ echo; continue; }}
                    base64 -w 0 -- "$file"; echo
                    tr ';{{}}' '\n\n\n' <"$file" | sed -n 's/^[[:space:]]*include[[:space:]]\{{1,\}}//p' |
                        tr -d "\"'" | sed 's/[[:space:]]*$//' | while IFS= read -r pattern; do
                            case $pattern in /*) ;; *) pattern={ROOT}/$pattern ;; esac
                            IFS=; show "$state" $pattern
                        done
                done
            }}
            show loaded {ROOT}/nginx.conf
            show loaded {ROOT}/modules-enabled/*.conf {ROOT}/conf.d/*.conf {ROOT}/sites-enabled/*
            find {ROOT} -name 'kome-cache*' | while IFS= read -r file; do show idle "$file"; done
        """

    def read(self, output: list[str]) -> tuple[NginxFile, ...]:
        return parse(output)

    @staticmethod
    def default() -> tuple[NginxFile, ...]:
        return ()
