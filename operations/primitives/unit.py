"""A systemd unit: whether it runs, starts at boot, and has been told of the configuration that is there."""

import hashlib
from collections.abc import Generator, Mapping

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, OperationError, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.api.util import print_host_combined_output

from facts.units import APPLIED, UnitState, UnitStates
from operations.primitives.checkers import CHECKERS
from operations.primitives.config_set import ConfigSet, digest, host_data, rendered

KINDS = (".service", ".socket", ".timer", ".target", ".path", ".mount", ".automount", ".slice", ".swap")

# Not "is it active now" but "is the same start of it still active two seconds later". A start that fails may
# be tried again by Restart=, as with an address that is late. Unit $1 is told to do $2, within $3 seconds.
TELL = r"""
start() { systemctl show -p ActiveState -p InvocationID -- "$1" | tr '\n' ' '; }
until=$(($(date +%s) + $3))
timeout "$3" systemctl --no-ask-password "$2" -- "$1"
while :; do
    first=$(start "$1")
    case $first in
        *ActiveState=active\ *) sleep 2; [ "$first" = "$(start "$1")" ] && exit 0 ;;
        *ActiveState=failed\ * | *ActiveState=inactive\ *) break ;;
    esac
    [ "$(date +%s)" -lt "$until" ] || break
    sleep 1
done
echo "$1 did not stay up after a $2; its last words:" >&2
timeout 10 journalctl -q --no-pager -o cat -n 20 -u "$1" >&2
exit 1
"""

# The first line is the digest, the others are the files it covers: transaction.py removes the stamp when it
# changes one of them. Renamed into place, so a stamp is whole or absent.
STAMP = r"""
mkdir -p "${1%/*}" && stamp=$1 && shift && printf '%s\n' "$@" > "$stamp.new" && mv "$stamp.new" "$stamp"
"""

# The question $1 is asked until it has nothing to say, ten times in ten seconds; then what it said is printed.
QUIET = r"""
for try in 1 2 3 4 5 6 7 8 9 10; do
    said=$(timeout 10 sh -c "$1") && [ "$said" ] || exit 0
    sleep 1
done
printf '%s\n' "$said"
"""

ConfigSets = ConfigSet | tuple[ConfigSet, ...]


def canonical(name: str) -> str:
    return name if name.endswith(KINDS) else f"{name}.service"


def shell(text: str, *words: str) -> StringCommand:
    return StringCommand("sh", "-c", QuoteString(text), "sh", *(QuoteString(word) for word in words))


def _check(config: ConfigSet) -> StringCommand:
    paths = (QuoteString(path) for path in config.paths)
    return StringCommand(
        "timeout", "60", "sh", "-c", QuoteString(CHECKERS[str(config.check)]), "check", *paths
    )


def due(state: UnitState, wanted: dict[str, str]) -> str | None:
    """What a running unit has to be told: "restart", "reload" or nothing. `wanted`: action → digest."""
    for action in ("restart", "reload"):
        if action in wanted and state.stamps.get(action) != wanted[action]:
            return action
    return None


def boot_command(state: UnitState, enabled: bool | None) -> str | None:
    """What has to be said so that the unit starts at boot, or does not: "enable", "disable" or nothing.

    A unit without an [Install] section (static, generated …) can be told nothing; one that does not exist
    does not start. What is under a mask is not known.
    """
    masked = state.file in ("masked", "masked-runtime")
    if enabled is None or (not masked and state.file not in ("enabled", "enabled-runtime", "disabled", "")):
        return None
    if enabled:
        return None if state.file == "enabled" else "enable"
    return None if state.file in ("disabled", "") else "disable"


def _tell(
    name: str, action: str, patience: int, stamps: Mapping[str, tuple[str, ...]]
) -> list[StringCommand]:
    """The commands of one action; `stamps`: which of them ("restart", "reload") it stands for → digest, paths."""
    return [
        shell(TELL, name, action, str(patience)),
        *(shell(STAMP, f"{APPLIED}/{name}.{key}", *words) for key, words in stamps.items()),
    ]


def _restart_or_spare(
    state: State,
    host: Host,
    name: str,
    busy: str,
    restart: list[StringCommand],
    instead: list[StringCommand],
) -> bool:
    """Run the commands of `restart`, or say why not and run those of `instead`."""
    _, answer = host.run_shell_command(shell(QUIET, busy), _sudo=True)
    if answer.stdout:
        logger.warning(
            f"{host.print_prefix}{name} is not restarted now, {answer.stdout}: what takes a restart waits for"
            " the next deploy, or the next restart"
        )
    for command in instead if answer.stdout else restart:
        done, said = host.run_shell_command(command, _sudo=True)
        if not done:
            print_host_combined_output(host, said)
            return False
    return True


@operation()
def unit(
    unit: str,
    restarted_if: ConfigSets = (),
    reloaded_if: ConfigSets = (),
    running: bool | None = True,
    enabled: bool | None = True,
    masked: bool = False,
    busy: str | None = None,
    patience: int = 120,
) -> Generator[StringCommand | FunctionCommand, None, None]:
    """
    Bring a systemd unit to a state, and tell it of its configuration when that is not what it runs with.

    + unit: its name; ".service" may be left out
    + restarted_if: config sets that need a restart
    + reloaded_if: config sets for which a reload is enough
    + running: whether it should run now; None leaves that alone
    + enabled: whether it should start at boot; None leaves that alone
    + masked: whether nothing at all may start it; then it is stopped as well
    + busy: a shell command that says in a few words what a restart would harm now, or nothing. Then the unit is
      reloaded at most, the operator is told, and the restart is left to the next deploy
    + patience: seconds that a start, restart or reload may take

    What it was last told is kept on the node, so a run that dies between the change and the restart is made
    good by the next. The sets are checked again before that.

    **Example:**

    .. code:: python

        unit(name="redis-server runs", unit="redis-server", restarted_if=REDIS)
    """
    asked = canonical(unit)
    state: UnitState = host.get_fact(UnitStates, units=(asked,))[asked]
    name = state.id
    if masked:
        if state.load == "masked" and state.active not in ("active", "activating", "reloading"):
            host.noop(f"{name} is masked")
            return
        # A unit that is not installed can be masked, and then it never starts when it is.
        yield StringCommand("systemctl", "mask", "--now", "--", QuoteString(name))
        return

    sets = {
        action: (given,) if isinstance(given, ConfigSet) else given
        for action, given in (("restart", restarted_if), ("reload", reloaded_if))
    }
    wanted = {
        action: hashlib.sha256(
            "".join(digest(one, rendered(one, host_data())) for one in given).encode()
        ).hexdigest()
        for action, given in sets.items()
        if given
    }
    if wanted and not running:
        raise OperationError(f"{name}: only a unit that should run can be restarted or reloaded")

    action = due(state, wanted) if state.active == "active" else "start"
    told = ["reload"] if action == "reload" else list(wanted) if action and running else []
    applied = [one for key in told for one in sets[key]]
    paths = [path for one in applied for path in one.paths]

    commands: list[StringCommand | FunctionCommand] = [_check(one) for one in applied if one.check]
    if state.load == "masked":
        commands.append(StringCommand("systemctl", "unmask", "--", QuoteString(name)))
    # systemd itself does not notice the first drop-in of a unit: NeedDaemonReload stays "no".
    if state.need_daemon_reload or any(path.startswith("/etc/systemd/system/") for path in paths):
        commands.append(StringCommand("systemctl", "daemon-reload"))
    at_boot = boot_command(state, enabled)
    if at_boot:
        commands.append(StringCommand("systemctl", at_boot, "--", QuoteString(name)))
    if running and action:
        stamps = {key: (wanted[key], *(path for one in sets[key] for path in one.paths)) for key in told}
        # "restart" for a start too: it also ends a unit that is just about to try again with what was there.
        tell = _tell(name, "reload" if action == "reload" else "restart", patience, stamps)
        if action == "restart" and busy:
            reloaded = {key: words for key, words in stamps.items() if key == "reload"}
            is_due = "reload" in wanted and due(state, {"reload": wanted["reload"]})
            instead = _tell(name, "reload", patience, reloaded) if is_due else []
            commands.append(FunctionCommand(_restart_or_spare, (name, busy, tell, instead), {}))
        else:
            commands.extend(tell)
    elif running is False and state.active not in ("inactive", "failed"):
        commands.append(StringCommand("systemctl", "stop", "--", QuoteString(name)))

    if not commands:
        host.noop(f"{name} is as it should be")
    yield from commands
