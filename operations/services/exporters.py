"""What Prometheus can scrape."""

from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.services.nginx import STATUS_LOCATION

NGINX = ConfigSet(
    files=(
        ConfigFile("/etc/systemd/system/prometheus-nginx-exporter.service.d/zz-okome.conf"),
        # what it was called
        ConfigFile("/etc/systemd/system/prometheus-nginx-exporter.service.d/okome.conf", absent=True),
    ),
    check="systemd",
    values={"status_location": STATUS_LOCATION},
)
