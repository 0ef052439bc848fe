"""The frontend's nginx: its files, and what of earlier configuration has to give way to them."""

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from pyinfra.api import DeployError

from facts.nginx import NginxFile, read_all
from operations.primitives.config_set import ConfigFile, ConfigSet, rendered
from operations.services.probe import DOWN_FLAG, FULL_FLAG

MARK = "# Managed by the okome repository"
# Debian does not change a release's nginx beyond its patch level.
VERSIONS = {"bookworm": (1, 22, 1), "trixie": (1, 26, 3)}
SITE = "/etc/nginx/conf.d/okome-server.conf"
# What a restart would wait for, while it refuses everybody else. An nginx that does not answer this is not ours yet.
# (A worker that crashed leaves its requests in nginx's count. Then it takes `systemctl restart nginx` by hand.)
OPEN_REQUESTS = r"""
exec 2>/dev/null python3 -I -c '
import re, urllib.request
with urllib.request.urlopen("http://127.0.0.1/okome/status", timeout=5) as answer:
    others = int(re.search(rb"Writing: (\d+)", answer.read())[1]) - 1
print(f"open requests: {others}" if others else "")
'
"""
FILES = (
    ConfigFile("/etc/nginx/nginx.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-cache.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-log.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-request.conf"),
    ConfigFile(SITE),
    ConfigFile("/etc/nginx/conf.d/okome-upstream.conf"),
    ConfigFile("/etc/nginx/okome/health_state.conf"),
    ConfigFile("/etc/nginx/snippets/okome-api.conf"),
    ConfigFile("/etc/nginx/snippets/okome-headers.conf"),
    ConfigFile("/etc/nginx/snippets/okome-health.conf"),
    ConfigFile("/etc/nginx/snippets/okome-maintenance.conf"),
    ConfigFile("/etc/nginx/snippets/okome-proxy.conf"),
    ConfigFile("/etc/nginx/snippets/okome-refused.conf"),
    ConfigFile("/etc/nginx/snippets/okome-static.conf"),
    # Debian's welcome page: the default server on port 80 is ours.
    ConfigFile("/etc/nginx/sites-enabled/default", absent=True),
)

SERVICE = ConfigSet(
    files=(
        ConfigFile("/etc/systemd/system/nginx.service.d/zz-okome.conf"),
        ConfigFile("/etc/systemd/system/nginx.service.d/okome.conf", absent=True),  # what it was called
    ),
    check="systemd",
    values={"site": SITE},
)
FOLDERS = ConfigSet((ConfigFile("/etc/tmpfiles.d/okome-nginx.conf"),), check="tmpfiles")
ROTATION = ConfigSet((ConfigFile("/etc/logrotate.d/okome-nginx"),), check="logrotate")
HOURLY = ConfigSet(
    files=(
        ConfigFile("/etc/systemd/system/logrotate.timer.d/zz-okome.conf"),
        ConfigFile("/etc/systemd/system/logrotate.timer.d/okome.conf", absent=True),  # what it was called
    ),
    check="systemd",
)


def nginx_config(suite: str, node: str, data: Mapping[str, Any], certificate: str | None = None) -> ConfigSet:
    """nginx's own files for a node called `node` (its hostname) that runs `suite`; `data` is the host's.

    `certificate` is the SHA-256 of the file that `tls_certificate` names, None if there is none.
    """
    version = VERSIONS[suite]
    address = ipaddress.ip_interface(f"{data['address']}/{data['lan_prefix_length']}")
    return ConfigSet(
        files=FILES,
        check="nginx",
        values={
            "node": node,
            "lan": str(address.network),
            # Under the first name everything is cached; it is also the Host that the origin sees for assets.
            "names": [str(address.ip), node.lower(), *data["server_names"], "localhost", "127.0.0.1"],
            "probe_flag": DOWN_FLAG,
            "full_flag": FULL_FLAG,
            # nginx's CHANGES: 1.23.0 joins repeated header lines, 1.25.1 has the directive `http2`.
            "nginx_joins_vary": version >= (1, 23),
            "nginx_http2_on_listen": version < (1, 25, 1),
            "tls_certificate_sha256": certificate or "",
            "tls_certificate_key": str(data["tls_certificate"]).removesuffix(".pem") + ".key",
        },
    )


def _collisions(file: NginxFile, ours: Mapping[tuple[str, str], str]) -> list[str]:
    """One line for each thing that this file and ours both define."""
    return [
        f"{file.path}:{one.line} defines {one.kind} {one.name.removesuffix(':80')!r}"
        for one in file.definitions
        if (one.kind, one.name) in ours
    ]


def giving_way(
    found: Iterable[NginxFile], config: ConfigSet, data: Mapping[str, object]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What gives way to our files: (paths to remove, paths of ours whose present content is kept aside).

    A file is the older system's if it is called kome-cache*, or if it collides with ours and all its requests
    go to the orchestrator. Anything else that collides is a stranger's: DeployError with file and line.
    """
    texts = {path: text.decode() for path, text in rendered(config, data).items() if text is not None}
    ours = {(one.kind, one.name): file.path for file in read_all(texts) for one in file.definitions}
    replaced = set(texts)
    removed = set(config.paths) - replaced
    old, aside, strangers = [], [], []
    for file in found:
        if file.text.startswith(MARK):
            if file.path not in config.paths and file.loaded:
                old.append(file.path)  # of an earlier version of this repository
            continue
        if file.packaged:
            continue
        to_us = bool(file.targets) and all(target == data["orchestrator"] for target in file.targets)
        named = PurePosixPath(file.path).name.startswith("kome-cache")
        collisions = _collisions(file, ours) if file.loaded else []
        if file.path in removed and not to_us:
            strangers.append(f"{file.path} is not Debian's own")
        elif file.path in config.paths:
            sites = [one.line for one in file.definitions if one.kind == "server_name"]
            if sites and not to_us:
                strangers.append(f"{file.path}:{sites[0]} is a site of its own")
            aside.append(file.path)
        elif named or (collisions and to_us):
            old.append(file.path)
        elif collisions:
            strangers.extend(collisions)
    if strangers:
        raise DeployError(
            f"nginx has a configuration that is not ours and collides with it; nothing was changed. "
            f"Move it away or rename what it defines: {'; '.join(strangers)}."
        )
    return tuple(old), tuple(aside)
