"""What directives of nginx mean to others: what they define, where they listen, where their requests go."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from posixpath import join, normpath

from facts.nginx import ROOT, NginxFile
from facts.nginx_syntax import Directive, globbed

CACHES = {"proxy_cache_path", "fastcgi_cache_path", "uwsgi_cache_path", "scgi_cache_path"}
# What names shared memory, and where: all of it is one namespace, and nginx refuses a name that two modules claim.
ZONES = {
    "limit_req_zone": "zone=",
    "limit_conn_zone": "zone=",
    "js_shared_dict_zone": "zone=",
    "ssl_session_cache": "shared:",
    "ssl_ocsp_cache": "shared:",
    **dict.fromkeys(CACHES, "keys_zone="),
}
PASSES = {"proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass"}
VARIABLES = {"map", "geo", "split_clients"}
# Pages that come with Debian's package.
PACKAGED_PAGES = "/usr/share/nginx/"


@dataclass(frozen=True)
class Place:
    """A directive where nginx meets it: in which file, within which blocks, the outermost first."""

    path: str
    directive: Directive
    within: tuple[Directive, ...]

    @property
    def context(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.within)

    def __str__(self) -> str:
        return f"{self.path}:{self.directive.line}"


def matching(pattern: str, files: Iterable[str]) -> list[str]:
    """The files that an include of `pattern` reads."""
    path = normpath(join(ROOT, globbed(pattern)))
    if not re.search(r"[*?\[]", path):
        return [path] if path in files else []
    return [file for file in files if PurePosixPath(file).match(path)]


def unfolded(
    path: str,
    files: Mapping[str, NginxFile],
    within: tuple[Directive, ...] = (),
    through: tuple[str, ...] = (),
) -> Iterator[Place]:
    """Every directive of a file and of what it includes, as nginx meets them; a block comes before what is in it."""

    def of(directives: list[Directive], within: tuple[Directive, ...]) -> Iterator[Place]:
        for one in directives:
            yield Place(path, one, within)
            if one.name == "include" and one.args:
                for file in matching(one.args[0], files):
                    if file not in (*through, path):
                        yield from unfolded(file, files, within, (*through, path))
            yield from of(one.block or [], (*within, one))

    yield from of(files[path].directives, within)


def opened(file: NginxFile, files: Mapping[str, NginxFile], through: tuple[str, ...] = ()) -> NginxFile:
    """The file with what its includes read in their place."""

    def of(directives: list[Directive]) -> Iterator[Directive]:
        for one in directives:
            if one.name == "include" and one.args:
                for path in matching(one.args[0], files):
                    if path not in (*through, file.path):
                        yield from opened(files[path], files, (*through, file.path)).directives
            yield one if one.block is None else replace(one, block=[*of(one.block)])

    return replace(file, directives=[*of(file.directives)])


# --- what may exist once ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """Something that may exist once only. `kind` is the directive (`zone` for every kind of shared memory,
    `cache_path` for every kind of cache's folder); for a server, `name` is NAME:PORT, or the port alone where it is the
    default server."""

    kind: str
    name: str
    line: int


@dataclass(frozen=True)
class Listen:
    """An address of a server. `host` as written, empty for all of IPv4; `ports` is the first and the last."""

    host: str
    ports: tuple[int, int]
    words: frozenset[str]
    line: int
    text: str

    @property
    def everybody(self) -> bool:
        """On the IPv4 socket that a bare `listen PORT` has."""
        both = self.host == "[::]" and "ipv6only=off" in self.words
        return self.host in ("", "*", "0.0.0.0") or both  # noqa: S104 - read in a file, bound by nobody here

    @property
    def loopback(self) -> bool:
        return self.host.startswith("127.") or self.host in ("[::1]", "localhost")

    def has(self, port: int) -> bool:
        return self.ports[0] <= port <= self.ports[1]


def listens(server: Directive) -> Iterator[Listen]:
    """Without those on UNIX sockets. A server that names none has port 80."""
    named = [one for one in server.block or [] if one.name == "listen" and one.args]
    for one in named:
        address, *words = one.args
        if address.startswith("unix:"):
            continue
        split = re.fullmatch(r"(?:(.*):)?(\d+)(?:-(\d+))?", address)
        host, first, last = split.groups() if split and not address.endswith("]") else (address, "80", None)
        ports = int(first), int(last or first)
        yield Listen(host or "", ports, frozenset(words), one.line, " ".join(one.args))
    if not named:
        yield Listen("", (80, 80), frozenset(), server.line, "80")


def _server(server: Directive, ports: Iterable[int]) -> Iterator[Definition]:
    names = [
        (name.lower(), one.line)
        for one in server.block or []
        if one.name == "server_name"
        for name in one.args
    ]
    for port in ports:
        here = [one for one in listens(server) if one.has(port)]
        for one in here:
            if one.everybody and one.words & {"default_server", "default"}:
                yield Definition("default_server", str(port), one.line)
        if here:
            # ".example.org" is "example.org" as well.
            yield from (
                Definition("server_name", f"{name.removeprefix('.')}:{port}", line)
                for name, line in names or [("", server.line)]
            )


def definitions(place: Place, ports: Iterable[int]) -> Iterator[Definition]:
    """What the directive defines; of servers, as far as they listen on one of `ports`."""
    one, line = place.directive, place.directive.line
    args = one.args
    if one.name in ZONES:
        zones = [arg.removeprefix(ZONES[one.name]) for arg in args if arg.startswith(ZONES[one.name])]
        yield from (Definition("zone", zone.partition(":")[0], line) for zone in zones)
    if one.name == "lua_shared_dict" and args:
        yield Definition("zone", args[0], line)
    if one.name == "zone" and place.context[-1:] == ("upstream",) and args:
        yield Definition("zone", args[0], line)
    if place.context[:1] != ("http",):  # stream and mail have names of their own
        return
    if one.name in CACHES and args:
        yield Definition("cache_path", normpath(args[0]), line)
    elif one.name == "upstream" and args:
        yield Definition(one.name, args[0].lower(), line)
    elif one.name == "log_format" and args:
        yield Definition(one.name, args[0], line)
    elif one.name == "js_import" and args:
        yield Definition(one.name, args[0] if len(args) > 1 else PurePosixPath(args[0]).stem, line)
    elif one.name in VARIABLES and args:
        yield Definition("map", args[-1], line)
    elif one.name == "server" and place.context == ("http",):
        yield from _server(one, ports)


# --- where requests go --------------------------------------------------------------------------------------


def _every(directives: list[Directive], name: str) -> Iterator[Directive]:
    for one in directives:
        if one.name == name:
            yield one
        yield from _every(one.block or [], name)


def upstreams(files: Iterable[NginxFile]) -> dict[str, list[str]]:
    """Name of an upstream -> its servers."""
    return {
        one.args[0]: [server.args[0] for server in _every(one.block or [], "server") if server.args]
        for file in files
        for one in _every(file.directives, "upstream")
        if one.args
    }


def targets(file: NginxFile, groups: Mapping[str, list[str]]) -> set[str]:
    """Where a file's requests go, HOST:PORT as written: its passes, its own upstreams. `groups`: all upstreams."""
    variables: dict[str, list[str]] = {}
    for one in _every(file.directives, "set"):
        if len(one.args) == 2:
            variables.setdefault(one.args[0], []).append(one.args[1])

    def resolved(target: str, depth: int = 4) -> Iterator[str]:
        bare = target.partition("://")[2] or target
        if bare.startswith("unix:"):
            yield bare
        elif depth and (variable := re.match(r"\$\{?(\w+)", bare)):
            for value in variables.get(f"${variable[1]}", []) or [bare]:
                yield from resolved(value, depth - 1) if value != bare else (bare,)
        else:
            name = re.split(r"[/?$]", bare, maxsplit=1)[0]
            yield from groups.get(name, [name])

    passes = [one.args[0] for name in PASSES for one in _every(file.directives, name) if one.args]
    own = [server for servers in upstreams([file]).values() for server in servers]
    return {*own, *(target for one in passes for target in resolved(one))}


def _rooted(block: list[Directive], inherited: bool) -> bool:
    """Whether `root` names a folder that somebody filled."""
    folders = [one.args[0] for one in block if one.name == "root" and one.args]
    return any(one.startswith("/") and not one.startswith(PACKAGED_PAGES) for one in folders) or (
        inherited and not folders
    )


def _answers(block: list[Directive]) -> bool:
    """Whether a request is answered here without a look at files."""
    refused = any(one.name == "deny" and one.args == ("all",) for one in block)
    return refused or any(one.name in {*PASSES, "return", "stub_status"} for one in block)


def speaks_itself(directives: list[Directive]) -> bool:
    """Whether a server in here passes nothing on, and yet says more than where else to go."""
    for server in _every(directives, "server"):
        inner = server.block or []
        said = [one.args[0] for one in _every(inner, "return") if one.args]
        passes = any(True for name in PASSES for _ in _every(inner, name))
        if not passes and any(re.fullmatch(r"2\d\d", one) for one in said):
            return True
    return False


def serves_files(block: list[Directive], *, rooted: bool = False) -> bool:
    """Whether something in here is answered from a folder that somebody filled; `rooted`: one is named outside."""
    if any(one.name in ("alias", "try_files", "autoindex", "dav_methods") for one in block):
        return True
    rooted = _rooted(block, rooted)
    for one in (one for one in block if one.block is not None):
        inner = one.block or []
        rest = [place for place in inner if place.name == "location" and place.args[-1:] == ("/",)]
        served = one.name == "location" or (one.name == "server" and not rest)
        if served and _rooted(inner, rooted) and not _answers(inner):
            return True
        if serves_files(inner, rooted=rooted):
            return True
    return False
