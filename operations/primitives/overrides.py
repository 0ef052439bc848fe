"""What somebody else set over our settings: found before anything changes, by file and line.

Our files have the name that sorts last, so most of what a node's owner left loses to them. What wins all the same is
told here from the files alone, by the rules of those who read them. What is about our unit only gives way, and a copy
is kept; what is about others too is theirs to remove, and the deploy stops.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pyinfra import host, logger

from facts.overrides import APT, FOLDERS, NOWHERE, SYSTEM, VENDOR, Overrides
from facts.several import Question
from operations.primitives.config_set import TEMPLATES, ConfigFile, ConfigSet, host_data, rendered
from operations.primitives.kept_aside import REPLACED, kept_aside
from operations.primitives.managed import MARK
from operations.primitives.preflight import Look, seen

OURS = "/etc/systemd/system"
# The packages' units to which we have something to say.
UNITS = tuple(sorted(folder.stem for folder in (TEMPLATES / OURS.lstrip("/")).glob("*.d")))
# The owner's to say: said twice these say more and take nothing back; or they share out what everybody wants at once.
HARMLESS = re.compile(
    r"After|Before|Wants|Description|Documentation"
    r"|Nice|((Startup)?(CPU|IO)|BlockIO)(Weight|DeviceWeight)|(CPU|IO|Tasks|Memory)Accounting|Memory(Min|Low)"
)
# What a service may not have more of, whatever is free: ours are sized for the node that they have (redis_maxmemory,
# cache_keys_mb), and would be killed or held up below that. Without a value these take nothing.
LIMITS = re.compile(
    r"(Startup)?Memory(High|Max|SwapMax|Limit)|CPUQuota\w*|(Startup)?AllowedCPUs|CPUAffinity|TasksMax"
    r"|IO(Read|Write)(Bandwidth|IOPS)Max|Limit[A-Z]+|RuntimeMaxSec|Slice"
)
NO_LIMIT = ("", "infinity")
# Settings that are lists: each line adds to it, an empty one clears what was there.
LISTS = re.compile(
    r"Exec\w+|Condition\w+|Assert\w+|On\w+|\w+Paths|CapabilityBoundingSet|SystemCallFilter|RestrictAddressFamilies"
)
# What is run has to be ours, whoever else says nothing of it.
RUNS = re.compile(r"Exec\w+|Root(Directory|Image)")


@dataclass(frozen=True)
class Setting:
    """One line of a file in systemd's syntax or sysctl's; `section` is empty in the latter."""

    section: str
    key: str
    value: str
    line: int


@dataclass(frozen=True)
class Override:
    """A line that wins over a file of ours. `own`: the file is about what ours is about and nothing else."""

    path: str
    line: int  # 0: the whole file
    says: str
    own: bool

    def __str__(self) -> str:
        return f"{self.path}{f':{self.line}' if self.line else ''} {self.says}"


def settings(text: str) -> Iterator[Setting]:
    """The lines that set something, of a unit, a drop-in, journald.conf, resolved.conf or sysctl.conf."""
    section, continued = "", False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if continued or not words or words[0] in "#;":
            continued = continued and words.endswith("\\")
            continue
        continued = words.endswith("\\")
        if words.startswith("["):
            section = words.strip("[]")
            continue
        key, equals, value = words.partition("=")
        if equals:
            yield Setting(section, key.strip(), value.strip(), number)


def kernel_key(key: str) -> str:
    """sysctl.d(5): a leading "-" is about errors, and of dots and slashes the first one separates."""
    key = key.removeprefix("-")
    first = re.search(r"[./]", key)
    return key.translate(str.maketrans("./", "/.")) if first and first[0] == "/" else key


def _unit_of(path: str) -> str:
    """The unit that a file of ours in /etc/systemd/system is about."""
    return PurePosixPath(path).relative_to(OURS).parts[0].removesuffix(".d")


def _shared_folders(unit: str) -> set[str]:
    """Drop-in folders that this unit has in common with others: a type's, and those of a name's beginnings."""
    name, _, kind = unit.rpartition(".")
    cuts = [name[: at + 1] for at, letter in enumerate(name) if letter == "-"]
    return {f"{kind}.d", *(f"{cut}.{kind}.d" for cut in cuts)}


def _against(
    theirs: str, ours: str, of_package: set[tuple[str, str]] | None, later: bool
) -> Iterator[Setting]:
    """The lines of a drop-in that win over ours, or over the package's unit. `later`: it is read after ours.

    `of_package`: what the package's unit sets; None if that is not known, and then it may set anything.
    """
    mine: dict[tuple[str, str], list[str]] = {}
    for one in settings(ours):
        mine.setdefault((one.section, one.key), []).append(one.value)
    for one in settings(theirs):
        name = (one.section, one.key)
        if HARMLESS.fullmatch(one.key):
            continue
        if name in mine:
            if later or (LISTS.fullmatch(one.key) and mine[name][0] != ""):
                yield one
        elif LIMITS.fullmatch(one.key):
            if one.value not in NO_LIMIT:
                yield one
        elif RUNS.fullmatch(one.key) or of_package is None or name in of_package:
            yield one


def _over_unit(
    found: Mapping[str, str], path: str, text: str, aliases: tuple[str, ...]
) -> Iterator[Override]:
    unit, name = _unit_of(path), PurePosixPath(path).name
    whole = path == f"{OURS}/{unit}"
    own_folders = {f"{one}.d" for one in (unit, *aliases)}
    packaged = found.get(f"{VENDOR}/{unit}")
    of_package = None if packaged is None else {(one.section, one.key) for one in settings(packaged)}
    for other, theirs in found.items():
        place = PurePosixPath(other)
        folder, root = place.parent.name, str(place.parent.parent)
        if str(place.parent) in SYSTEM and place.name in (unit, *aliases) and other != path:
            yield Override(other, 0, f"stands in for {unit}", own=True)
            continue
        own = folder in own_folders
        if root not in SYSTEM or not (own or folder in _shared_folders(unit)):
            continue
        if any(f"{earlier}/{folder}/{place.name}" in found for earlier in SYSTEM[: SYSTEM.index(root)]):
            continue  # its owner's other file of that name is read instead
        if place.name == name and not whole:
            # Two files with one name: the one in the earlier folder is read, and the other is not.
            if SYSTEM.index(root) < SYSTEM.index(OURS) and own:
                yield Override(other, 0, f"stands in for {path}", own)
            continue
        if theirs == NOWHERE:
            yield Override(other, 0, f"leads nowhere, which {unit} would have to be told of for ever", own)
        known = set() if of_package is None and not own else of_package
        for one in _against(theirs, text, known, later=whole or place.name > name):
            yield Override(other, one.line, f"sets {one.key} of {unit}", own)


def _over_folder(found: Mapping[str, str], path: str, text: str) -> Iterator[Override]:
    """journald.conf.d, resolved.conf.d and sysctl.d: the last file that names a key has it."""
    ours = PurePosixPath(path)
    siblings = [one for one in FOLDERS if PurePosixPath(one).name == ours.parent.name]
    kernel = ours.parent.name == "sysctl.d"
    keys = {kernel_key(one.key) if kernel else one.key for one in settings(text)}
    for other, theirs in found.items():
        place = PurePosixPath(other)
        if str(place.parent) not in siblings or place.name <= ours.name:
            continue
        if any(
            f"{earlier}/{place.name}" in found for earlier in siblings[: siblings.index(str(place.parent))]
        ):
            continue
        for one in settings(theirs):
            pattern = kernel_key(one.key) if kernel else one.key
            if any(fnmatchcase(key, pattern) for key in keys):
                yield Override(other, one.line, f"sets {one.key}", own=not kernel)


def _over_apt(found: Mapping[str, str], path: str) -> Iterator[Override]:
    """/etc/apt/apt.conf is read after the folder, and not before it. What ours is about is written out here."""
    for other, theirs in found.items():
        last = other == APT[1] or (str(PurePosixPath(other).parent) == APT[0] and other > path)
        for number, line in enumerate(theirs.splitlines() if last else (), 1):
            words = line.split("//")[0]
            if re.search(r"(?i)lock.*timeout|--force-conf|#clear\s+dpkg", words):
                yield Override(other, number, f"says {words.strip()!r}", own=False)


def overriding(
    found: Mapping[str, str], texts: Mapping[str, str], aliases: tuple[str, ...] = ()
) -> tuple[Override, ...]:
    """What wins over files of ours (path → text), one line for each file and each of ours.

    `aliases`: other names of their units, whose drop-ins systemd reads as well.
    """
    wins: dict[tuple[str, str], Override] = {}
    found = {path: text for path, text in found.items() if not text.startswith(MARK)}
    for path, text in texts.items():
        folder = str(PurePosixPath(path).parent)
        if path.startswith(f"{OURS}/"):
            overrides = _over_unit(found, path, text, aliases)
        elif folder in FOLDERS:
            overrides = _over_folder(found, path, text)
        elif folder == APT[0]:
            overrides = _over_apt(found, path)
        else:
            continue
        for one in overrides:
            wins.setdefault((one.path, path), one)
    return tuple(wins.values())


def _won_by(
    found: Mapping[str, str], config: ConfigSet, data: Mapping[str, object], aliases: tuple[str, ...]
) -> tuple[Override, ...]:
    texts = {path: text.decode() for path, text in rendered(config, data).items() if text is not None}
    return overriding(found, texts, aliases)


def look(data: Mapping[str, object], *sets: ConfigSet, aliases: tuple[str, ...] = ()) -> Look:
    """What wins over these sets, and is about more than they are. `data` is the host's."""

    def findings(found: Mapping[str, str]) -> list[str]:
        strange = [one for config in sets for one in _won_by(found, config, data, aliases) if not one.own]
        more = (
            "over ours, and says more than that: take it out, or give the file a name that sorts before ours"
        )
        return [f"{one} {more}" if one.line else f"{one}: remove it" for one in strange]

    return Look((Question(Overrides, {"units": UNITS}),), findings)


def giving_way(config: ConfigSet, aliases: tuple[str, ...] = ()) -> tuple[ConfigFile, ...]:
    """What wins over the set, and is about the same only, as absent: a copy is kept, and the operator told.

    What is about others too is for `look` to say.
    """
    won = _won_by(seen(Overrides, units=UNITS), config, host_data(), aliases)
    gone = {one.path: one for one in won if one.own and one.path not in config.paths}
    for one in gone.values():
        logger.warning(f"{host.print_prefix}{one}: it gives way, with a copy below {REPLACED}")
    if gone:
        kept_aside(name="Copies of settings that give way", paths=tuple(gone))
    return tuple(ConfigFile(path, absent=True) for path in gone)


def prevailing(config: ConfigSet, aliases: tuple[str, ...] = ()) -> ConfigSet:
    """The set, and what gives way to it."""
    return replace(config, files=config.files + giving_way(config, aliases))
