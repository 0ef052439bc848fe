"""The journal: in RAM, which spares the card."""

from operations.primitives.config_set import ConfigFile, ConfigSet

# What is absent is what it was called: of what others set, the file whose name sorts last wins.
JOURNALD = ConfigSet(
    (
        ConfigFile("/etc/systemd/journald.conf.d/zz-okome.conf"),
        ConfigFile("/etc/systemd/journald.conf.d/90-okome.conf", absent=True),
    )
)
