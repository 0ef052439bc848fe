"""The kernel's settings, as it gets them at boot."""

from operations.primitives.config_set import ConfigFile, ConfigSet

# What is absent is what it was called: of what others set, the file whose name sorts last wins.
SYSCTL = ConfigSet(
    (ConfigFile("/etc/sysctl.d/zz-okome.conf"), ConfigFile("/etc/sysctl.d/90-okome.conf", absent=True))
)
