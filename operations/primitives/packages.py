"""Debian packages: installed, and upgraded, on a node whose apt somebody else may be using just now.

What has to be done is decided by `installation` and `upgrading`, from what dpkg and apt say; the operations only
render it.
"""

import itertools
import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.api.util import print_host_combined_output

from facts.packages import FETCHED, FRONTEND, WAIT, Packages, PackageState, Upgrade, UpgradeState
from facts.several import Question
from operations.primitives.ask import ask, connected
from operations.primitives.foretold import foretold, present

# apt's own two locks, on the lists and on the downloads, are not waited for by apt: DPkg::Lock::Timeout is about
# dpkg's.
LISTS, DOWNLOADS = "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"
# Lists younger than this are not fetched again. Seconds.
FRESH = 3600


@dataclass(frozen=True)
class Configure:
    """What dpkg unpacked is configured."""


@dataclass(frozen=True)
class Fetch:
    """The package lists are fetched."""


@dataclass(frozen=True)
class AptGet:
    """apt-get with these words. What it does with configuration files and how long it waits for dpkg is said in our
    file in /etc/apt/apt.conf.d, which every deploy brings first."""

    words: tuple[str, ...]


Step = Configure | Fetch | AptGet
# What a power cut in the middle of dpkg asks for.
REPAIR = (Configure(), AptGet(("--fix-broken", "install")))


def installation(names: Iterable[str], state: PackageState) -> tuple[Step, ...]:
    """What is to be done so that these packages are there; nothing if they are, and dpkg is whole."""
    missing = tuple(name for name in names if name not in state.installed)
    install = (Fetch(), AptGet(("--no-install-recommends", "install", *missing))) if missing else ()
    return (*(REPAIR if state.broken else ()), *install)


def upgrading(broken: bool, state: UpgradeState) -> tuple[Step, ...]:
    """What is to be done so that no package can be upgraded; `broken`: dpkg was interrupted half way."""
    stale = state.age is None or not 0 <= state.age <= FRESH  # its clock may have been wrong
    if not (broken or stale or state.upgradable):
        return ()
    return (*(REPAIR if broken else ()), Fetch(), AptGet(("--with-new-pkgs", "upgrade")))


def command(step: Step, seconds: int) -> StringCommand | FunctionCommand:
    """The command of one step, once no other apt is at work: `seconds` is how long it waits for that."""
    match step:
        case Configure():
            configure = "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a"
            return StringCommand(_free(seconds, FRONTEND), "&&", configure)
        case Fetch():
            return FunctionCommand(_fetch, (), {})
        case AptGet(words):
            return _apt_get(seconds, *words)


def _free(seconds: int, *locks: str) -> StringCommand:
    return StringCommand("python3", "-c", QuoteString(WAIT), str(seconds), *locks)


def _apt_get(seconds: int, *words: str) -> StringCommand:
    apt_get = "DEBIAN_FRONTEND=noninteractive apt-get -q -y"
    return StringCommand(_free(seconds, LISTS, DOWNLOADS), "&&", apt_get, *words)


def complaints(said: Iterable[str]) -> list[str]:
    """What apt-get says against the repositories that it could not read, each once. Of those that are away it says
    nothing at the end where another one has a worse fault: so from what it said on its way."""
    lines = list(said)
    found = [line[3:].rstrip(".") for line in lines if line.startswith(("E: ", "W: "))]
    for line, reason in itertools.pairwise(lines):
        away = re.match(r"Err:\d+ (\S+)(.*)", line)
        if away and not any(away[1] in one for one in found):
            found.append(f"{away[1]}{away[2]}: {reason.strip()}")
    return list(dict.fromkeys(line for line in found if not line.startswith("Some index files failed")))


def reached(said: Iterable[str]) -> bool:
    """Whether at least one repository of the network was there."""
    return any(re.match(r"(Hit|Get):\d+ (?!file:|cdrom:|copy:)", line) for line in said)


@connected
def _fetch(state: State, host: Host) -> bool:
    """The package lists. A repository that is away, expired or not signed is warned of: whether what is wanted can be
    had without it is seen when that is installed. Not so if all are away."""
    update = _apt_get(host.data.apt_lock_timeout, "-o APT::Update::Error-Mode=any update")
    done, output = ask(host, StringCommand(update, "2>&1"))
    if not done and not reached(output.stdout_lines):
        print_host_combined_output(host, output)
        return False
    for complaint in complaints(output.stdout_lines) if not done else ():
        logger.warning(f"{host.print_prefix}apt leaves out a repository: {complaint}")
    marked, _ = ask(host, StringCommand(f"mkdir -p {FETCHED.rpartition('/')[0]} && touch {FETCHED}"))
    return marked


def _question(names: Sequence[str], **_: object) -> Question:
    return Question(Packages, {"names": tuple(names), "seconds": host.data.apt_lock_timeout})


@foretold(_question)
@operation()
def packages(names: Sequence[str]) -> Generator[StringCommand | FunctionCommand, None, None]:
    """
    Install Debian packages, without their recommendations. Configuration files that are there are kept.

    + names: the packages

    Waits for another apt or dpkg to end. A dpkg that was interrupted is brought to its end first. A repository that
    can't be read is warned of.

    **Example:**

    .. code:: python

        packages(name="Redis", names=["redis-server"])
    """
    found = installation(names, present(_question(names)))
    if not found:
        host.noop(f"{', '.join(names)} installed")
    for step in found:
        yield command(step, host.data.apt_lock_timeout)


@operation()
def upgrade() -> Generator[StringCommand | FunctionCommand, None, None]:
    """
    Upgrade every package, new dependencies included; configuration files that are there are kept.

    Nothing to do on a node whose lists are younger than an hour and offer nothing.

    **Example:**

    .. code:: python

        upgrade(name="Packages are up to date")
    """
    broken = host.get_fact(Packages, names=("dpkg",), seconds=host.data.apt_lock_timeout).broken
    found = upgrading(broken, host.get_fact(Upgrade))
    if not found:
        host.noop("no package is to be upgraded")
    for step in found:
        yield command(step, host.data.apt_lock_timeout)
