"""What else is in nginx's configuration: what gives way to ours, and what ours can't stand beside."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from facts.files import Digest
from facts.nginx import NginxFile, NginxFiles, read_all
from facts.several import Question
from operations.primitives.config_set import ConfigSet, rendered
from operations.primitives.managed import MARK
from operations.primitives.preflight import Look
from operations.services.nginx import nginx_config
from operations.services.nginx_collisions import NGINX_CONF, collisions, ours
from operations.services.nginx_meaning import (
    Place,
    opened,
    serves_files,
    speaks_itself,
    targets,
    unfolded,
    upstreams,
)
from operations.services.nginx_reach import unreachable
from operations.services.nginx_replaced import lost, missed, orphaned, woken


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
