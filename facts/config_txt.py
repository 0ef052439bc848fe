"""What a Pi's firmware reads at boot: config.txt, and the files that it includes."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from facts.answer import Answer

# Where Raspberry Pi OS mounts the boot partition since bookworm, and where it did before.
PLACES = ("/boot/firmware", "/boot")


@dataclass(frozen=True)
class ConfigTxtState:
    """`path` is None on a machine without one. `mode`, `owner` and `group` are those of the FAT's mount. `included`:
    name as written behind `include` → text."""

    path: str | None = None
    mode: str = "755"
    owner: str = "root"
    group: str = "root"
    text: str = ""
    included: Mapping[str, str] = field(default_factory=dict)


def parse(output: list[str]) -> ConfigTxtState:
    """`MODE OWNER GROUP PATH`, then its content in base64, then two lines for each text file beside it: its name and
    its content."""
    mode, owner, group, path = output[0].split(" ", 3)
    texts = [
        base64.b64decode(line.removeprefix("=")).decode(errors="surrogateescape") for line in output[1::2]
    ]
    names = [line.rpartition("/")[2] for line in output[2::2]]
    return ConfigTxtState(path, mode, owner, group, texts[0], dict(zip(names, texts[1:], strict=True)))


class ConfigTxt(Answer[ConfigTxtState]):
    """config.txt where the firmware reads it; nothing on a machine that has none."""

    def command(self) -> str:
        places = " ".join(PLACES)
        return rf"""
            for place in {places}; do test -f "$place/config.txt" && break; done
            test -f "$place/config.txt" || exit 0
            stat -c '%a %U %G %n' "$place/config.txt"
            echo "=$(base64 -w 0 "$place/config.txt")"
            grep -h '^[[:space:]]*include[[:space:]]' "$place"/*.txt | while read -r _ name _; do
                test -f "$place/$name" || continue
                printf '%s/%s\n' "$place" "$name"; echo "=$(base64 -w 0 "$place/$name")"
            done
        """

    def read(self, output: list[str]) -> ConfigTxtState:
        return parse(output)

    @staticmethod
    def default() -> ConfigTxtState:
        return ConfigTxtState()
