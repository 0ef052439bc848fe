"""Debian packages: installed, and upgraded, on a node whose apt somebody else may be using just now."""

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from facts.packages import FETCHED, Packages, Upgrade

# The lists' lock has no timeout of apt's own (DPkg::Lock::Timeout is dpkg's), so it is waited for here: it
# is an fcntl lock, which util-linux's flock does not see. Seconds.
LOCK_SECONDS = 300
WAIT_FOR_LISTS = f"""
import fcntl, sys, time
deadline = time.monotonic() + {LOCK_SECONDS}
while True:
    with open("/var/lib/apt/lists/lock", "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("another apt has held /var/lib/apt/lists/lock for {LOCK_SECONDS} s")
    time.sleep(0.5)
"""
APT = (
    "DEBIAN_FRONTEND=noninteractive apt-get -q -y"
    f" -o DPkg::Lock::Timeout={LOCK_SECONDS}"
    " -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)
# Lists younger than this are not fetched again. Seconds.
FRESH = 3600


def _update() -> Generator[StringCommand, None, None]:
    yield StringCommand("python3", "-c", QuoteString(WAIT_FOR_LISTS))
    fetched = f"mkdir -p {FETCHED.rpartition('/')[0]} && touch {FETCHED}"
    yield StringCommand(f"{APT} -o APT::Update::Error-Mode=any update && {fetched}")


def _repair() -> StringCommand:
    """What a power cut in the middle of dpkg asks for."""
    return StringCommand(
        "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a &&"
        f" {APT} --fix-broken install"
    )


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
        yield _repair()
    if missing:
        yield from _update()
        yield StringCommand(f"{APT} --no-install-recommends install {' '.join(missing)}")


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
        yield _repair()
    yield from _update()
    yield StringCommand(f"{APT} --with-new-pkgs upgrade")
