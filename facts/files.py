"""What stands at a set of paths: asked for all of them in one command."""

import shlex
from dataclasses import dataclass

from facts.answer import Answer
from facts.ours import STATE

JOURNAL = f"{STATE}/journal"


@dataclass(frozen=True)
class FileState:
    """`kind` is find's letter (f file, d directory, l symlink …); `sha256` is of a regular file's content."""

    kind: str
    mode: str  # octal, without a leading zero: "644"
    owner: str
    group: str
    sha256: str | None = None


@dataclass(frozen=True)
class FilesState:
    """`files` has no entry for a path where nothing stands. `pending`: an earlier transaction on this node
    did not come to its end, so what stands there was never checked as a whole."""

    files: dict[str, FileState]
    pending: bool


def parse(output: list[str]) -> FilesState:
    """`f 640 redis redis /etc/redis/redis.conf` lines of find, then `SHA256  PATH` lines of sha256sum."""
    files: dict[str, FileState] = {}
    pending = False
    for line in output:
        digest, double_space, path = line.partition("  ")
        if double_space:
            if path in files:
                found = files[path]
                files[path] = FileState(found.kind, found.mode, found.owner, found.group, digest)
            continue
        kind, mode, owner, group, path = line.split(" ", 4)
        if path == JOURNAL:
            pending = True
        else:
            files[path] = FileState(kind, mode, owner, group)
    return FilesState(files, pending)


class FileStates(Answer[FilesState]):
    """The state of each path, and whether a transaction is pending.

    Never the content: a digest says enough, and some of these files are nobody's business.

    **Example:**

    .. code:: python

        host.get_fact(FileStates, paths=("/etc/redis/redis.conf", "/etc/redis/users.acl"))
    """

    def command(self, paths: tuple[str, ...]) -> str:
        # find complains of paths that do not exist, and that is an answer here. It does not follow symlinks.
        quoted = " ".join(shlex.quote(path) for path in paths)
        return (
            f"find {quoted} {JOURNAL} -maxdepth 0 -printf '%y %m %u %g %p\\n' 2>/dev/null; "
            f"find {quoted} -maxdepth 0 -type f -exec sha256sum -- {{}} + 2>/dev/null; true"
        )

    @staticmethod
    def default() -> FilesState:
        return FilesState({}, pending=False)

    def read(self, output: list[str]) -> FilesState:
        return parse(output)


class Digest(Answer[str | None]):
    """SHA-256 of a file's content, wherever symlinks lead; None where there is none.

    **Example:**

    .. code:: python

        host.get_fact(Digest, path="/etc/ssl/okome.pem")
    """

    def command(self, path: str) -> str:
        quoted = shlex.quote(path)
        return f"! test -f {quoted} || sha256sum <{quoted}"

    def read(self, output: list[str]) -> str | None:
        return output[0].split()[0]

    @staticmethod
    def default() -> str | None:
        return None
