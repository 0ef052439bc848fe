"""Who a node says it is: its hostname, what /etc/hosts says, and what cloud-init will make of it at each boot."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from facts.answer import Answer

HOSTS = "/etc/hosts"
CLOUD_INIT = "/etc/cloud/cloud.cfg.d/zz-okome.cfg"
# The modules that cloud-init runs first, as its own files list them; the last file that does has it. cloud-init
# brings python3-yaml.
_MODULES = f"""
import glob, json, yaml
modules = None
for path in ["/etc/cloud/cloud.cfg", *sorted(glob.glob("/etc/cloud/cloud.cfg.d/*.cfg"))]:
    if path != "{CLOUD_INIT}":
        with open(path) as file:
            modules = (yaml.safe_load(file) or {{}}).get("cloud_init_modules", modules)
print("=" + json.dumps(modules))
"""


@dataclass(frozen=True)
class IdentityState:
    """`hostname`: now; `static`: at the next boot; `hosts`: all of /etc/hosts (bytes as surrogateescape);
    `cloud_init`: the modules that it runs first at each boot, as its files list them; None without cloud-init."""

    hostname: str
    static: str
    hosts: str
    cloud_init: tuple[Any, ...] | None = None


def parse(output: list[str]) -> IdentityState:
    """Three lines, `=HOSTNAME`, `=HOSTNAME`, and the file in base64 behind a `=`; a fourth with a JSON list."""
    hostname, static, hosts, *modules = (line.removeprefix("=") for line in output)
    listed = json.loads(modules[0]) if modules else None
    text = base64.b64decode(hosts).decode(errors="surrogateescape")
    return IdentityState(hostname, static, text, None if listed is None else tuple(listed))


class Identity(Answer[IdentityState]):
    """The node's names."""

    def command(self) -> str:
        # base64, because pyinfra hands over lines and a file is more than its lines.
        return f"""
            echo "=$(uname -n)"; echo "=$(cat /etc/hostname)"; echo "=$(base64 -w 0 {HOSTS})"
            ! test -e /etc/cloud/cloud.cfg || python3 -I - <<'END' || true
{_MODULES}
END
        """

    def read(self, output: list[str]) -> IdentityState:
        return parse(output)
