"""The cache's hit ratios, counted from nginx's log."""

from operations.primitives.config_set import ConfigFile, ConfigSet

HIT_RATIO = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/hitratio.py", mode="755"),
        ConfigFile("/usr/local/bin/okome-hitratio", mode="755"),
        ConfigFile("/etc/systemd/system/okome-hitratio.service"),
        ConfigFile("/etc/systemd/system/okome-hitratio.timer"),
    ),
    check="systemd",
)
