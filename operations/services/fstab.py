"""The hardened mount table: fewer writes to the SD card, and /tmp in RAM."""

from collections.abc import Mapping
from typing import Any

from facts.fstab import BACKUP, FSTAB, FstabObjections, FstabState
from facts.several import Question
from operations.primitives.config_set import ConfigFile, ConfigSet
from operations.primitives.preflight import Look

MARK = f"# Hardened by the okome repository; the file as it was: {BACKUP}"
# commit=60: ext4 writes its journal once a minute instead of every 5 s; a power cut may lose that minute.
EXT4 = ("noatime", "commit=60")
TMP = "tmpfs /tmp tmpfs nosuid,nodev,size=25%,mode=1777 0 0"


def look(data: Mapping[str, Any]) -> Look:
    """What of the present table would make findmnt refuse the hardened one; `data` is the host's."""
    if not data["fstab_hardened"]:
        return Look(())
    return Look(
        (Question(FstabObjections),),
        lambda said: [
            f"findmnt --verify objects to {FSTAB}: {one}: mend that, or leave fstab_hardened off"
            for one in said
        ],
    )


def fstab(found: FstabState) -> ConfigSet:
    """The hardened table, and the first one that was found here beside it."""
    values = {"fstab": hardened(found.current), "fstab_before": found.backup or found.current}
    return ConfigSet((ConfigFile(BACKUP), ConfigFile(FSTAB)), check="fstab", values=values)


def hardened(text: str) -> str:
    """The same table with noatime and commit=60 on every ext4 and /tmp in RAM. Idempotent; a line that is no
    entry of six fields (comments, swap, what somebody is in the middle of) stays byte for byte as it is."""
    lines = [line for line in text.splitlines() if line != MARK]
    table = [_entry(line) for line in lines]
    mounted = [fields[1] for fields in map(_fields, lines) if len(fields) > 1]
    if TMP.split()[1] not in mounted:
        table.append(TMP)
    return "\n".join([MARK, *table, ""])


def _entry(line: str) -> str:
    fields = _fields(line)
    if len(fields) not in (4, 5, 6) or fields[2] != "ext4":
        return line
    comment = line.split()[len(fields) :]
    options = [
        option
        for option in fields[3].split(",")
        if option not in ("relatime", "atime", "strictatime", "noatime") and not option.startswith("commit=")
    ]
    fields[3] = ",".join([*options, *EXT4])
    return "\t".join([*fields, " ".join(comment)]).rstrip()


def _fields(line: str) -> list[str]:
    """Without a comment, which may follow the fields."""
    fields = line.split()
    return fields[: next((number for number, field in enumerate(fields) if field.startswith("#")), None)]
