"""What of another Redis is on a node: whose files stand where ours go, what is in its folder."""

import shlex
from dataclasses import dataclass

from facts.answer import Answer

DATA = "/var/lib/redis"
# Other servers of the protocol, and more of Debian's own beside the one that is ours; all of them take 6379 at first.
OTHERS = (
    "'valkey-server*.service' 'redis-server@*.service' 'redis-stack-server.service' 'keydb-server.service'"
)


@dataclass(frozen=True)
class RedisState:
    """`foreign`: of the files asked for, those that are neither ours nor as Debian's package brought them; `ours`:
    whether the first of them is. `data`: bytes of what is in DATA, None where that is empty. `room`: bytes that
    a copy of it may take, None where it can be renamed instead. `asleep`: units of other servers that do not run, and
    are started at the next boot."""

    ours: bool = False
    foreign: tuple[str, ...] = ()
    data: int | None = None
    room: int | None = None
    asleep: tuple[str, ...] = ()


def parse(output: list[str]) -> RedisState:
    """`ours PATH`, `foreign PATH`, `data BYTES`, `room BYTES` and `asleep UNIT` lines."""
    said: dict[str, list[str]] = {}
    for line in output:
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    return RedisState(
        ours="ours" in said,
        foreign=tuple(said.get("foreign", [])),
        data=int(said["data"][0]) if "data" in said else None,
        room=int(said["room"][0]) if "room" in said else None,
        asleep=tuple(said.get("asleep", [])),
    )


class Redis(Answer[RedisState]):
    """What of another Redis is there; one command, and root's.

    + files: where ours go; redis.conf first
    + mark: what the first line of a file of ours begins with
    + beside: the folder next to which DATA is kept; it may not exist yet

    **Example:**

    .. code:: python

        host.get_fact(Redis, files=("/etc/redis/redis.conf",), mark=MARK, beside="/var/lib/okome")
    """

    def command(self, files: tuple[str, ...], mark: str, beside: str) -> str:
        first, paths = shlex.quote(files[0]), " ".join(map(shlex.quote, files))
        return rf"""
            for file in {paths}; do
                test -e "$file" || continue
                case $(head -n 1 "$file") in
                    {shlex.quote(mark)}*) test "$file" != {first} || echo "ours $file" ;;
                    *)
                        case $(dpkg-query -W -f '${{Conffiles}}\n' redis-server 2>/dev/null) in
                            *" $file $(md5sum <"$file" | cut -c -32)"*) ;;
                            *) echo "foreign $file" ;;
                        esac ;;
                esac
            done
            systemctl list-unit-files --no-legend --plain --state=enabled {OTHERS} 2>/dev/null |
                while read -r unit _; do systemctl -q is-active "$unit" || echo "asleep $unit"; done
            find -H {DATA} -mindepth 1 -printf '%b\n' 2>/dev/null |
                awk '{{ blocks += $1 }} END {{ if (NR) printf "data %.0f\n", blocks * 512 }}'
            if test -d {DATA} && ! test -L {DATA}; then
                place={beside}; test -d "$place" || place=${{place%/*}}
                if mountpoint -q {DATA} || test "$(stat -c %d {DATA})" != "$(stat -c %d "$place")"; then
                    echo "room $(df --block-size=1 --output=avail "$place" | tail -n 1 | tr -d ' ')"
                fi
            fi
        """

    def read(self, output: list[str]) -> RedisState:
        return parse(output)

    @staticmethod
    def default() -> RedisState:
        return RedisState()
