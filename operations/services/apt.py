"""apt as every run of ours, and everybody else's on the node, finds it: conffiles kept, its lock waited for."""

from operations.primitives.config_set import ConfigFile, ConfigSet

# What is absent is what it was called: of what others set, the file whose name sorts last wins.
APT = ConfigSet(
    (ConfigFile("/etc/apt/apt.conf.d/zz-okome"), ConfigFile("/etc/apt/apt.conf.d/80okome", absent=True))
)
