"""What somebody else left and ours replaces: kept as a copy, never deleted silently."""

from collections.abc import Generator
from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from facts.ours import STATE

REPLACED = f"{STATE}/replaced"


@operation()
def kept_aside(paths: tuple[str, ...]) -> Generator[StringCommand, None, None]:
    """
    Copy files that are about to be replaced or removed to REPLACED, by their whole path; older copies stay.

    + paths: the files; a symlink's target is what is copied

    **Example:**

    .. code:: python

        kept_aside(name="Copies", paths=("/etc/nginx/conf.d/kome-cache.conf",))
    """
    if not paths:
        host.noop("nothing gives way")
        return
    yield StringCommand("mkdir", "-p", "-m", "700", REPLACED)
    for path in paths:
        copy = QuoteString(f"{REPLACED}{path}")
        yield StringCommand("mkdir", "-p", QuoteString(f"{REPLACED}{PurePosixPath(path).parent}"))
        present = StringCommand("test", "!", "-e", QuoteString(path))  # a symlink to nowhere has no content
        yield StringCommand(present, "|| cp --dereference --backup=numbered -p --", QuoteString(path), copy)
    yield StringCommand("sync", "-f", REPLACED)  # before what it is a copy of goes
