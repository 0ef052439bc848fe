"""Every package up to date; a reboot if one is required, one node after the other; a look at what came up."""

from operations.config_set import config_set
from operations.connection import explain_lost_connections
from operations.foundation import APT
from operations.packages import upgrade
from operations.reboot import no_failed_units, reboot_if_required

explain_lost_connections()
config_set(name="apt keeps configuration files and waits for its lock", config=APT)
upgrade(name="Packages are up to date")
reboot_if_required(name="Reboot, if the upgrade asks for it", _serial=True)
no_failed_units(name="Everything has started")
