"""The cache's hit ratios, counted from nginx's log."""

from pathlib import PurePosixPath

from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.services.nginx import ACCESS_LOG

STATE = "/run/okome/hitratio"  # in RAM: its totals, and the numbers for Prometheus
HIT_RATIO = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/hitratio.py", mode="755"),
        ConfigFile("/usr/local/bin/okome-hitratio", mode="755"),
        ConfigFile("/etc/systemd/system/okome-hitratio.service"),
        ConfigFile("/etc/systemd/system/okome-hitratio.timer"),
    ),
    check="systemd",
    values={
        "access_log": ACCESS_LOG,
        "hit_ratio_state": STATE,
        "hit_ratio_directory": str(PurePosixPath(STATE).relative_to("/run")),
    },
)
