"""The health probe whose flags nginx looks for."""

from pathlib import PurePosixPath

from operations.primitives.config_set import ConfigFile, ConfigSet

# Files in RAM; nginx looks for them at each request.
DOWN_FLAG = "/run/okome/upstream/down"
FULL_FLAG = "/run/okome/upstream/cache-full"
CACHE = "/var/cache/nginx/okome"  # nginx keeps it, the probe watches its room
PROBE = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/probe.py", mode="755"),
        ConfigFile("/etc/systemd/system/okome-probe.service"),
    ),
    check="systemd",
    values={
        "probe_flag": DOWN_FLAG,
        "full_flag": FULL_FLAG,
        "cache": CACHE,
        "probe_directory": str(PurePosixPath(DOWN_FLAG).parent.relative_to("/run")),
    },
)
