"""cloud-init, which made the node and would make it again at each boot: its name, and /etc/hosts."""

from typing import Any

from facts.identity import CLOUD_INIT
from operations.primitives.config_set import ConfigFile, ConfigSet

# What they do is said in the user-data too (`manage_etc_hosts: true`, as Raspberry Pi Imager writes it), which outrank
# any file here: so they are not to run. Which modules run is said in the files.
OFF = {"set_hostname", "update_hostname", "update_etc_hosts"}


def cloud_init(modules: tuple[Any, ...] | None) -> ConfigSet:
    """`modules`: those that cloud-init runs first now, each a name or a list that begins with it (its older names have
    dashes); None where that is not known, and then the hostname alone is kept."""
    return ConfigSet(
        (ConfigFile(CLOUD_INIT), ConfigFile("/etc/cloud/cloud.cfg.d/99-okome.cfg", absent=True)),
        values={"cloud_init_modules": [one for one in modules or () if _name(one) not in OFF]},
    )


def _name(module: Any) -> str:
    return str(module[0] if isinstance(module, list) else module).replace("-", "_")
