"""The frontend's nginx: its files, and what stands in them."""

import ipaddress
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from facts.listeners import EVERYWHERE
from operations.primitives.config_set import REPOSITORY, ConfigFile, ConfigSet
from operations.services.probe import CACHE, DOWN_FLAG, FULL_FLAG
from operations.services.sockets import LOOPBACK, Socket

# Debian does not change a release's nginx beyond its patch level.
VERSIONS = {"bookworm": (1, 22, 1), "trixie": (1, 26, 3)}
UNIT = "nginx.service"
PACKAGES = ("nginx", "libnginx-mod-http-js")
SITE = "/etc/nginx/conf.d/okome-server.conf"
STATUS_LOCATION = "/okome/status"  # where the LAN and this node ask how many requests are open
STATUS = REPOSITORY / "node/nginx_status.py"
ERROR_LOG = "/var/log/nginx/error.log"
# Its folder is its own: Debian rotates whatever is in /var/log/nginx.
ACCESS_LOG = "/var/log/nginx/okome/access.log"
# What its unit may write to; all else it only reads, if it sees it.
SERVICE_WRITES = ("/run", "/var/cache/nginx", "/var/lib/nginx", "/var/log/nginx")
LOGS = {"access_log": ACCESS_LOG, "log_directory": str(PurePosixPath(ACCESS_LOG).parent)}
FILES = (
    ConfigFile("/etc/nginx/nginx.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-cache.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-fetch.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-log.conf"),
    ConfigFile("/etc/nginx/conf.d/okome-request.conf"),
    ConfigFile(SITE),
    ConfigFile("/etc/nginx/conf.d/okome-upstream.conf"),
    ConfigFile("/etc/nginx/okome/freshness.js"),
    ConfigFile("/etc/nginx/okome/health_state.conf"),
    ConfigFile("/etc/nginx/snippets/okome-api.conf"),
    ConfigFile("/etc/nginx/snippets/okome-headers.conf"),
    ConfigFile("/etc/nginx/snippets/okome-health.conf"),
    ConfigFile("/etc/nginx/snippets/okome-maintenance.conf"),
    ConfigFile("/etc/nginx/snippets/okome-origin.conf"),
    ConfigFile("/etc/nginx/snippets/okome-own.conf"),
    ConfigFile("/etc/nginx/snippets/okome-proxy.conf"),
    ConfigFile("/etc/nginx/snippets/okome-refused.conf"),
    ConfigFile("/etc/nginx/snippets/okome-static.conf"),
    # Debian's welcome page: the default server on port 80 is ours.
    ConfigFile("/etc/nginx/sites-enabled/default", absent=True),
)
FOLDERS = ConfigSet(
    (ConfigFile("/etc/tmpfiles.d/okome-nginx.conf"),), check="tmpfiles", values={**LOGS, "cache": CACHE}
)
ROTATION = ConfigSet((ConfigFile("/etc/logrotate.d/okome-nginx"),), check="logrotate", values=LOGS)
HOURLY = ConfigSet(
    files=(
        ConfigFile("/etc/systemd/system/logrotate.timer.d/zz-okome.conf"),
        ConfigFile("/etc/systemd/system/logrotate.timer.d/okome.conf", absent=True),  # what it was called
    ),
    check="systemd",
)


def service(data: Mapping[str, Any]) -> ConfigSet:
    """nginx's unit; `data` is the host's."""
    return ConfigSet(
        files=(
            ConfigFile("/etc/systemd/system/nginx.service.d/zz-okome.conf"),
            ConfigFile("/etc/systemd/system/nginx.service.d/okome.conf", absent=True),  # what it was called
        ),
        check="systemd",
        values={"site": SITE, "writes": SERVICE_WRITES, "stop_timeout_s": data["drain_timeout_s"] + 10},
        revertible=True,
    )


def _status(*words: str) -> str:
    """The shell command that asks nginx for its status; what it prints and when it fails stands in the program."""
    return f"exec python3 -I -c {shlex.quote(STATUS.read_text())} {shlex.join(words)}"


def open_requests() -> str:
    """Says what a restart would harm now."""
    return _status("open", f"http://127.0.0.1{STATUS_LOCATION}")


def proof(address: str, tls: bool) -> str:
    """Succeeds when nginx answers, as ours, where the LAN and the node itself ask it."""
    addresses = [f"http://{address}", "http://127.0.0.1", *([f"https://{address}"] if tls else [])]
    return _status("proof", *(f"{one}{STATUS_LOCATION}" for one in addresses))


def sockets(data: Mapping[str, Any]) -> tuple[Socket, ...]:
    """Where our servers listen; `data` is the host's."""
    ports = (80, 443) if data["tls_certificate"] else (80,)
    return (
        *(Socket("nginx", UNIT, EVERYWHERE, port) for port in ports),
        Socket("nginx", UNIT, LOOPBACK, data["fetch_port"], "fetch_port"),
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
        revertible=True,
        values={
            "node": node,
            "lan": str(address.network),
            # Under the first name everything is cached; it is also the Host that the origin sees for assets.
            "names": [str(address.ip), node.lower(), *data["server_names"], "localhost", "127.0.0.1"],
            "access_log": ACCESS_LOG,
            "error_log": ERROR_LOG,
            "cache": CACHE,
            "status_location": STATUS_LOCATION,
            "probe_flag": DOWN_FLAG,
            "full_flag": FULL_FLAG,
            "open_files": 4 * data["worker_connections"],
            # The cache keeps its own head and the key in front of the origin's.
            "answer_buffer_kb": data["answer_head_kb"] + 4,
            # okome-fetch.conf, which is who is asked, tries a second time.
            "asset_answer_timeout_s": data["next_upstream_timeout_s"] + data["asset_timeout_s"],
            # nginx's CHANGES: 1.25.1 has the directive `http2`.
            "nginx_http2_on_listen": version < (1, 25, 1),
            "tls_certificate_sha256": certificate or "",
            "tls_certificate_key": str(data["tls_certificate"]).removesuffix(".pem") + ".key",
        },
    )
