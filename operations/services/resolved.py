"""Names on the LAN: systemd-resolved, where it runs, asks name servers alone, and is no server to anybody else."""

from operations.primitives.config_set import ConfigFile, ConfigSet

RESOLVED = ConfigSet((ConfigFile("/etc/systemd/resolved.conf.d/zz-okome.conf"),))
