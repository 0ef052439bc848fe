"""The GPU's share of RAM, in the config.txt that a Pi's firmware reads at boot.

raspi-config had a call for it until bookworm, do_memory_split; since then nothing sets it but the file. Rules of the
file: raspberrypi.com/documentation/computers/config_txt.html, "Conditional filters" and "Memory options".
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from facts.config_txt import PLACES, ConfigTxtState
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.managed import MARK

OURS = f"{MARK}: no screen, so little memory for the GPU."
# The ones with a number are for boards with that much RAM (1024: with 1 GB or more), and win over the one without.
KEYS = ("gpu_mem", "gpu_mem_256", "gpu_mem_512", "gpu_mem_1024")


def config_txt(found: ConfigTxtState, text: str) -> ConfigSet:
    """The file where it was found, with this text; on FAT the mode and owner of a file are those of the mount."""
    file = ConfigFile(
        str(found.path),
        found.owner,
        found.group,
        found.mode,
        template=f"{PLACES[0].lstrip('/')}/config.txt.j2",
    )
    return ConfigSet((file,), values={"config_txt": text})


class Assignment(NamedTuple):
    """`everywhere`: no filter stands before it, so it holds on every board."""

    everywhere: bool
    key: str
    value: str


def lines(text: str, included: Mapping[str, str], within: tuple[str, ...] = ()) -> Iterator[str]:
    """The file with what it includes in place of the includes, as the firmware sees it."""
    for line in text.split("\n"):
        words = line.split()
        if words[:1] == ["include"] and len(words) > 1:
            if words[1] in included and words[1] not in within:
                yield from lines(included[words[1]], included, (*within, words[1]))
        else:
            yield line.strip()


def read(text: str, included: Mapping[str, str]) -> tuple[list[Assignment], bool]:
    """What is said of the GPU's memory, in order, and whether a line at the end would hold on every board.

    Filters of one kind replace each other, those of different kinds add up, and [all] ends them."""
    everywhere, found = True, []
    for line in lines(text, included):
        if line.startswith("["):
            everywhere = line == "[all]"
        key, equals, value = line.partition("=")
        if equals and key in KEYS:
            found.append(Assignment(everywhere, key, value))
    return found, everywhere


def holds(found: list[Assignment], key: str, wanted: str) -> bool:
    """Whether a key has the wanted value on every board: said everywhere, and nothing else after that."""
    values = [one for one in found if one.key == key]
    last = max((number for number, one in enumerate(values) if one.everywhere), default=None)
    return last is not None and all(one.value == wanted for one in values[last:])


def with_gpu_memory(text: str, included: Mapping[str, str], megabytes: int) -> str:
    """The same config.txt with gpu_mem on every board; every line of others as it was.

    The later line wins, so ours come last, below [all] if a filter is open there.
    """
    wanted = str(megabytes)
    found, _ = read(text, included)
    said = {one.key for one in found} | {"gpu_mem"}
    if all(holds(found, key, wanted) for key in said):
        return text
    text = without_ours(text)
    found, everywhere = read(text, included)
    keys = [key for key in KEYS if key == "gpu_mem" or key in {one.key for one in found}]
    end = "\n" if text and not text.endswith("\n") else ""
    block = [OURS, *([] if everywhere else ["[all]"]), *(f"{key}={wanted}" for key in keys)]
    return f"{text}{end}" + "".join(f"{line}\n" for line in block)


def without_ours(text: str) -> str:
    """Without the lines that an earlier run wrote. Its [all] stays: what others have written since is below it."""
    kept, ours = [], False
    for line in text.split("\n"):
        ours = line == OURS or (ours and (line == "[all]" or line.partition("=")[0] in KEYS))
        if not ours or line == "[all]":
            kept.append(line)
    return "\n".join(kept)
