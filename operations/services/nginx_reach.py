"""What other sites can't reach any more once our unit confines nginx: said, before it is silently not there."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from operations.services.nginx import SERVICE_WRITES
from operations.services.nginx_meaning import CACHES, PASSES, Place

# systemd.exec(5): what ProtectHome= makes empty, and of what PrivateTmp= gives a folder of its own.
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - read in a file, written by nobody here
READ = {
    "root",
    "alias",
    "include",
    "js_path",
    "perl_modules",
    "geoip_city",
    "geoip_country",
    "geoip_org",
    "geoip2",
}
LOGS = {"access_log", "error_log"}


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def _sockets(place: Place) -> Iterator[str]:
    """Of UNIX: where it listens, or passes on to."""
    if place.directive.name in {"listen", "server", *PASSES}:
        for arg in place.directive.args[:1]:
            if found := re.match(r"(?:\w+://)?unix:([^:]+)", arg):
                yield found[1]


def unreachable(places: Iterable[Place]) -> Iterator[str]:
    """One line for each path of another's site that nginx will not see, or not write to. `places`: the file's own."""
    for place in places:
        name, args = place.directive.name, place.directive.args
        read = name in READ or name.startswith("ssl_") or name.endswith("_file")
        written = name in LOGS or name in CACHES or name.endswith("_temp_path")
        paths = [arg for arg in args if arg.startswith("/")] if read else [*args[:1]] if written else []
        for path in (*paths, *_sockets(place)):
            said = f"{place} says {' '.join((name, *args))}"
            if _below(path, HOMES) or (not written and _below(path, TEMPORARY)):
                yield f"{said}, which our unit hides from nginx: move it, to /srv or /run for one"
            elif written and path.startswith("/") and not _below(path, (*SERVICE_WRITES, *TEMPORARY, "/dev")):
                folder = "/var/log/nginx" if name in LOGS else "/var/cache/nginx"
                yield f"{said}, where our unit lets nginx write nothing: move it to {folder}"
