"""Every package up to date; a reboot if one is required, one node after the other; a look at what came up."""

from pyinfra import host

from operations.primitives.config_set import config_set
from operations.primitives.connection import explain_lost_connections
from operations.primitives.packages import upgrade
from operations.primitives.reboot import no_failed_units, reboot_if_required
from operations.services.apt import APT

explain_lost_connections()
config_set(name="apt keeps configuration files and waits for its lock", config=APT)
upgrade(name="Packages are up to date")
# A frontend lets its streams finish before it goes down.
reboot_if_required(
    name="Reboot, if the upgrade asks for it",
    patience=300 + (host.data.get("drain_timeout_s") or 0),
    _serial=True,
)
no_failed_units(name="Everything has started")
