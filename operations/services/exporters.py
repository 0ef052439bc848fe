"""What Prometheus can scrape."""

from collections.abc import Mapping
from typing import Any

from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.services.nginx import STATUS_LOCATION
from operations.services.sockets import Socket

PACKAGES = ("prometheus-nginx-exporter",)
NGINX = ConfigSet(
    files=(
        ConfigFile("/etc/systemd/system/prometheus-nginx-exporter.service.d/zz-okome.conf"),
        # what it was called
        ConfigFile("/etc/systemd/system/prometheus-nginx-exporter.service.d/okome.conf", absent=True),
    ),
    check="systemd",
    values={"status_location": STATUS_LOCATION},
)


def sockets(data: Mapping[str, Any]) -> tuple[Socket, ...]:
    """Where the exporters listen; `data` is the host's."""
    address, _, port = str(data["nginx_exporter_listen"]).partition(":")
    unit = "prometheus-nginx-exporter.service"
    return (Socket("the nginx exporter", unit, address, int(port), "nginx_exporter_listen"),)
