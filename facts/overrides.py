"""Files by which anybody may change what a package's units, the journal, the resolver, the kernel or apt are set to,
and what happens to logs and folders."""

import shlex
from collections.abc import Mapping

from facts.answer import Answer

# Where units and drop-ins stand that no package brought, as systemd.unit(5) has it; of two drop-ins with one name
# the one in the earlier folder counts. What generators make is not in it: it is made of other files at each boot.
SYSTEM = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
)
VENDOR = "/usr/lib/systemd/system"
# The same for other programs that read a folder in the order of its files' names.
FOLDERS = (
    *(f"{root}/systemd/journald.conf.d" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
    *(f"{root}/systemd/resolved.conf.d" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
    *(f"{root}/sysctl.d" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
)
# Without what packages bring: it is theirs by name.
TMPFILES = tuple(f"{root}/tmpfiles.d" for root in ("/etc", "/run", "/usr/local/lib"))  # noqa: S108 - no such
LOGROTATE = ("/etc/logrotate.d", "/etc/logrotate.conf")
APT = ("/etc/apt/apt.conf.d", "/etc/apt/apt.conf")
NOWHERE = "(a link to nowhere)\n"
CLOUD_INIT = "/etc/cloud/cloud.cfg.d"
CLOUD_INIT_KEYS = ("preserve_hostname", "cloud_init_modules")


def parse(output: list[str]) -> dict[str, str]:
    """`/PATH` lines, each followed by the lines of that file with a blank before them."""
    texts: dict[str, str] = {}
    path = ""
    for line in output:
        if line.startswith(" "):
            texts[path] += f"{line[1:]}\n"
        else:
            path = line
            texts[path] = ""
    return texts


class Overrides(Answer[Mapping[str, str]]):
    """Path → text of every file that may have a say, ours among them; and of the packages' own files of `units`.

    Of a unit file that stands in for a package's, or is a link to somewhere, only the path; of masks, those that
    `systemctl unmask` leaves. Of a link to /dev/null (it hides others of its name), only the path; of one that leads
    nowhere, NOWHERE.
    Of cloud-init's files, which hold what is nobody's business, the lines that name CLOUD_INIT_KEYS.

    **Example:**

    .. code:: python

        host.get_fact(Overrides, units=("redis-server.service",))
    """

    def command(self, units: tuple[str, ...]) -> str:
        roots = " ".join(SYSTEM)
        own = " ".join(shlex.quote(f"{VENDOR}/{unit}") for unit in units)
        folders = " ".join(f"{folder}/*.conf" for folder in (*FOLDERS, *TMPFILES))
        return rf"""
            told='s/^/ /'
            show() {{
                for file; do
                    if test -f "$file"; then echo "$file"; sed -E "$told" -- "$file"
                    elif test -e "$file"; then test -d "$file" || echo "$file"
                    elif test -L "$file"; then echo "$file"; echo ' {NOWHERE.strip()}'; fi
                done
            }}
            for root in {roots}; do
                show "$root"/*.d/*.conf
                for file in "$root"/*.*; do
                    test -L "$file" || test -e "$file" || continue
                    ! test -d "$file" || continue
                    case $root=$(readlink -f -- "$file") in
                        *=/usr/lib/* | *=/lib/* | /etc/systemd/system=/dev/null | /run/systemd/system=/dev/null) ;;
                        *) echo "$file" ;;
                    esac
                done
            done
            show {own} {folders} {APT[0]}/* {APT[1]} {LOGROTATE[0]}/* {LOGROTATE[1]}
            told='/{"|".join(CLOUD_INIT_KEYS)}/!s/.*//; s/^/ /'
            show {CLOUD_INIT}/*.cfg
        """

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def read(self, output: list[str]) -> dict[str, str]:
        return parse(output)
