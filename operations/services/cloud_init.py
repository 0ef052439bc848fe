"""cloud-init, which made the node and would make it again at each boot: its name, and /etc/hosts."""

import re
from collections.abc import Mapping
from typing import Any

from facts.identity import CLOUD_INIT, Identity, IdentityState
from facts.overrides import CLOUD_INIT_KEYS, Overrides
from facts.several import Question
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.overrides import UNITS
from operations.primitives.preflight import Look

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


def look() -> Look:
    """What says otherwise in a file that cloud-init reads after ours: of each key the last one counts."""
    return Look((Question(Overrides, {"units": UNITS}), Question(Identity)), later)


def later(found: Mapping[str, str], identity: IdentityState) -> list[str]:
    """One sentence for each line. `found`: path → text, of which nothing but the lines of our keys is to be read."""
    harmless = {"preserve_hostname": r"(?i)true\b|yes\b|on\b"}
    if not any(_name(one) in OFF for one in identity.cloud_init or ()):
        harmless["cloud_init_modules"] = ""  # a list without them, whoever made it
    folder, _, ours = CLOUD_INIT.rpartition("/")
    said = []
    for path, text in found.items():
        if path.rpartition("/")[0] != folder or path.rpartition("/")[2] <= ours:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for key in CLOUD_INIT_KEYS:
                says = re.search(rf"""^[^#]*?\b{key}["']?\s*:\s*(.*)""", line)
                if says and not (key in harmless and re.match(harmless[key], says[1])):
                    said.append(
                        f"{path}:{number} sets {key} over ours ({CLOUD_INIT}): take it out, or give the file a name"
                        " that sorts before"
                    )
    return said


def _name(module: Any) -> str:
    return str(module[0] if isinstance(module, list) else module).replace("-", "_")
