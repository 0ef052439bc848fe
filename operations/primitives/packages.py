"""Debian packages: installed, and upgraded, on a node whose apt somebody else may be using just now."""

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from facts.packages import FETCHED, Packages, Upgrade

# apt's own two locks, on the lists and on the downloads, are not waited for by apt: DPkg::Lock::Timeout is about
# dpkg's. They are fcntl locks, which util-linux's flock does not see. The first argument is the limit in seconds.
WAIT = """
import fcntl, sys, time
deadline = time.monotonic() + float(sys.argv[1])
for path in ("/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"):
    with open(path, "w") as lock:
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit(f"another apt has held {path} for {sys.argv[1]} s")
            time.sleep(0.5)
"""
# Lists younger than this are not fetched again. Seconds.
FRESH = 3600


def _apt_get(*words: str) -> StringCommand:
    """apt-get, once no other apt is at work. What it does with configuration files and how long it waits for
    dpkg is said in /etc/apt/apt.conf.d/zz-okome, which every deploy brings first."""
    seconds = str(host.data.apt_lock_timeout)
    wait = StringCommand("python3", "-c", QuoteString(WAIT), seconds)
    return StringCommand(wait, "&&", "DEBIAN_FRONTEND=noninteractive apt-get -q -y", *words)


def _update() -> StringCommand:
    fetched = f"mkdir -p {FETCHED.rpartition('/')[0]} && touch {FETCHED}"
    return _apt_get("-o APT::Update::Error-Mode=any update", "&&", fetched)


def _repair() -> Generator[StringCommand, None, None]:
    """What a power cut in the middle of dpkg asks for."""
    yield StringCommand("DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a")
    yield _apt_get("--fix-broken install")


@operation()
def packages(names: Sequence[str]) -> Generator[StringCommand, None, None]:
    """
    Install Debian packages, without their recommendations. Configuration files that are there are kept.

    + names: the packages

    Waits for another apt to end. A dpkg that was interrupted is brought to its end first.

    **Example:**

    .. code:: python

        packages(name="Redis", names=["redis-server"])
    """
    state = host.get_fact(Packages, names=tuple(names))
    missing = [name for name in names if name not in state.installed]
    if not missing and not state.broken:
        host.noop(f"{', '.join(names)} installed")
        return
    if state.broken:
        yield from _repair()
    if missing:
        yield _update()
        yield _apt_get("--no-install-recommends install", *missing)


@operation()
def upgrade() -> Generator[StringCommand, None, None]:
    """
    Upgrade every package, new dependencies included; configuration files that are there are kept.

    Nothing to do on a node whose lists are younger than an hour and offer nothing.

    **Example:**

    .. code:: python

        upgrade(name="Packages are up to date")
    """
    broken = host.get_fact(Packages, names=("dpkg",)).broken
    state = host.get_fact(Upgrade)
    stale = state.age is None or state.age > FRESH
    if not (broken or stale or state.upgradable):
        host.noop("no package is to be upgraded")
        return
    if broken:
        yield from _repair()
    yield _update()
    yield _apt_get("--with-new-pkgs upgrade")
