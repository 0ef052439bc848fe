"""A systemd unit: whether it runs, starts at boot, and has been told of the configuration that is there.

What has to be done is decided by `steps`, from what systemd and the stamps say; the operation only renders it.
"""

import hashlib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, OperationError, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.api.util import print_host_combined_output

from facts.several import Question
from facts.units import APPLIED, UnitState, UnitStates
from node.transaction import FORMER, STATE
from operations.primitives.ask import ask, connected
from operations.primitives.checkers import CHECK_SECONDS, CHECKERS
from operations.primitives.config_set import ConfigSet, digest, host_data, rendered, restoration
from operations.primitives.foretold import foretold, present

KINDS = (".service", ".socket", ".timer", ".target", ".path", ".mount", ".automount", ".slice", ".swap")

# Unit $1 is told to do $2, which may take $3 seconds. It is up when the same start of it is up two seconds later, and
# is given up when three starts have failed: Restart= may try for ever. Then it has $5 seconds until the shell command
# $4 succeeds. If it fails, the program on stdin brings back the files that it ran with before, and it is told again.
TELL = r"""
exec 3<&0 </dev/null
trap '' HUP PIPE
now() { read -r up rest </proc/uptime; echo "${up%.*}"; }
start() { systemctl show -p ActiveState,InvocationID,Job,NRestarts -- "$1" | tr '\n' ' '; }
tell() {
    until=$(($(now) + $3))
    systemctl -q reset-failed -- "$1" 2>/dev/null
    case $2 in
        restart) systemctl --no-ask-password --no-block restart -- "$1" || return 1 ;;
        *) timeout "$3" systemctl --no-ask-password "$2" -- "$1" || return 1 ;;
    esac
    while :; do
        said=$(start "$1")
        case $said in
            *Job=[1-9]*) ;;
            *ActiveState=active\ *) sleep 2; [ "$said" = "$(start "$1")" ] && return 0 ;;
            *ActiveState=failed\ * | *ActiveState=inactive\ *) return 1 ;;
        esac
        case $said in *NRestarts=[3-9]\ * | *NRestarts=[1-9][0-9]*) return 1 ;; esac
        [ "$(now)" -lt "$until" ] || return 1
        sleep 1
    done
}
proved() {
    until=$(($(now) + $5))
    until said=$(timeout 10 sh -c "$4" 2>&1); do
        [ "$(now)" -lt "$until" ] || return 1
        sleep 1
    done
}
if ! tell "$@"; then
    echo "$1 did not stay up after a $2; its last words:"
    timeout 10 journalctl -q --no-pager -o cat -n 20 -u "$1"
elif ! proved "$@"; then
    printf '%s is up after a %s and does not do its work: %s\n' "$1" "$2" "$said"
else
    exit 0
fi >&2
former=$(python3 -I - <&3) || exit 1
[ "$former" ] || exit 1
systemctl daemon-reload
if tell "$1" "$2" "$3"; then echo "$1 runs again with what it had before:"; else
    echo "what $1 had before is back, and it does not run with that either:"; fi >&2
printf '%s\n' "$former" >&2
exit 1
"""

# The first line is the digest, the others are the files it covers: transaction.py removes the stamp when it
# changes one of them. Renamed into place, so a stamp is whole or absent. $2: where what stood at these files is kept
# until now.
STAMP = r"""
mkdir -p "${1%/*}" && stamp=$1 former=$2 && shift 2 && printf '%s\n' "$@" > "$stamp.new" && mv "$stamp.new" "$stamp" &&
shift && for path; do rm -f "$former/files$path" "$former/none$path"; done
"""

# The question $1 is asked until it has nothing to say, ten times in ten seconds; then what it said is printed.
QUIET = r"""
for _ in 1 2 3 4 5 6 7 8 9 10; do
    said=$(timeout 10 sh -c "$1") && [ "$said" ] || exit 0
    sleep 1
done
printf '%s\n' "$said"
"""

ConfigSets = ConfigSet | tuple[ConfigSet, ...]


@dataclass(frozen=True)
class Check:
    """Let the set's checker see it once more: a run may have died since it landed."""

    config: ConfigSet


@dataclass(frozen=True)
class Systemctl:
    """`systemctl VERB` of the unit; `daemon-reload` is of all."""

    verb: str


@dataclass(frozen=True)
class Tell:
    """Restart or reload; when the unit does not do its work then, what is kept of `revertible` comes back."""

    action: str
    revertible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stamp:
    """Note on the node that the unit has been told, by this action, of files with this digest."""

    action: str
    digest: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Unless:
    """`then`, or `otherwise` if a restart would do harm now."""

    busy: str
    then: tuple["Tell | Stamp", ...]
    otherwise: tuple["Tell | Stamp", ...]


Step = Check | Systemctl | Tell | Stamp | Unless


def canonical(name: str) -> str:
    return name if name.endswith(KINDS) else f"{name}.service"


def due(state: UnitState, wanted: Mapping[str, str]) -> str | None:
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
    action: str, keys: Iterable[str], sets: Mapping[str, tuple[ConfigSet, ...]], wanted: Mapping[str, str]
) -> tuple[Tell | Stamp, ...]:
    """One action, and the stamps it stands for: a restart tells a unit of what a reload would, too."""
    told = tuple(keys)
    revertible = tuple(path for key in told for one in sets[key] if one.revertible for path in one.paths)
    stamps = (Stamp(key, wanted[key], tuple(path for one in sets[key] for path in one.paths)) for key in told)
    return (Tell(action, revertible), *stamps)


def steps(
    state: UnitState,
    sets: Mapping[str, tuple[ConfigSet, ...]],
    wanted: Mapping[str, str],
    *,
    running: bool | None = True,
    enabled: bool | None = True,
    masked: bool = False,
    busy: str | None = None,
) -> tuple[Step, ...]:
    """What is to be done to a unit, in this order; nothing if it is as it should be.

    `sets` and `wanted`: action ("restart", "reload") → the sets that ask for it, and their digest; the rest is as
    `unit` has it.
    """
    if masked:
        stopped = state.active not in ("active", "activating", "reloading")
        # A unit that is not installed can be masked, and then it never starts when it is.
        return () if state.load == "masked" and stopped else (Systemctl("mask --now"),)

    action = due(state, wanted) if state.active == "active" else "start"
    told = ("reload",) if action == "reload" else tuple(wanted) if action and running else ()
    applied = [one for key in told for one in sets[key]]

    found: list[Step] = [Check(one) for one in applied if one.check]
    if state.load == "masked":
        # Each leaves the other's mask; systemd names the one that wins, and there may be both.
        found += (Systemctl("unmask"), Systemctl("unmask --runtime"))
    # systemd itself does not notice the first drop-in of a unit: NeedDaemonReload stays "no".
    of_systemd = any(path.startswith("/etc/systemd/system/") for one in applied for path in one.paths)
    if state.need_daemon_reload or of_systemd:
        found.append(Systemctl("daemon-reload"))
    if at_boot := boot_command(state, enabled):
        found.append(Systemctl(at_boot))
    if running and action == "reload":
        found += _tell("reload", told, sets, wanted)
    elif running and action == "restart" and busy:
        reload_due = "reload" in wanted and state.stamps.get("reload") != wanted["reload"]
        instead = _tell("reload", ("reload",), sets, wanted) if reload_due else ()
        found.append(Unless(busy, _tell("restart", told, sets, wanted), instead))
    elif running and action:
        # "restart" for a start too: it also ends a unit that is just about to try again with what was there.
        found += _tell("restart", told, sets, wanted)
    elif running is False and state.active not in ("inactive", "failed"):
        found.append(Systemctl("stop"))
    return tuple(found)


def shell(text: str, *words: str, stdin: str | None = None) -> StringCommand:
    quoted = (QuoteString(word) for word in words)
    program = StringCommand("sh", "-c", QuoteString(text), "sh", *quoted)
    return StringCommand(program, _stdin=stdin) if stdin else program


def commands(
    name: str, step: Check | Systemctl | Tell | Stamp, patience: int, proof: str, proof_seconds: int
) -> StringCommand:
    """The command of one step for the unit `name`."""
    match step:
        case Check(config):
            paths = (QuoteString(path) for path in config.paths)
            text = QuoteString(CHECKERS[str(config.check)])
            return StringCommand("timeout", str(CHECK_SECONDS), "sh", "-c", text, "check", *paths)
        case Systemctl("daemon-reload"):
            return StringCommand("systemctl", "daemon-reload")
        case Systemctl(verb):
            return StringCommand("systemctl", verb, "--", QuoteString(name))
        case Tell(action, revertible):
            program = restoration(revertible) if revertible else None
            return shell(TELL, name, action, str(patience), proof, str(proof_seconds), stdin=program)
        case Stamp(action, of, paths):
            return shell(STAMP, f"{APPLIED}/{name}.{action}", f"{STATE}/{FORMER}", of, *paths)


@connected
def _run_unless(
    state: State,
    host: Host,
    name: str,
    busy: str,
    then: list[StringCommand],
    otherwise: list[StringCommand],
) -> bool:
    """Run the commands of `then`, or say why not and run those of `otherwise`. After those it is asked once more: a
    server that was not ours yet could not say."""

    def run(way: list[StringCommand]) -> bool:
        for command in way:
            done, said = ask(host, command, **command.connector_arguments)
            if not done:
                print_host_combined_output(host, said)
                return False
        return True

    harm = ask(host, shell(QUIET, busy))[1].stdout
    if harm and otherwise:
        if not run(otherwise):
            return False
        harm = ask(host, shell(QUIET, busy))[1].stdout
    if not harm:
        return run(then)
    logger.warning(
        f"{host.print_prefix}{name} is not restarted now, {harm}: what takes a restart waits for"
        " the next deploy, or the next restart"
    )
    return True


def _question(unit: str, **_: object) -> Question:
    return Question(UnitStates, {"units": (canonical(unit),)})


@foretold(_question)
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
    proof: str = "true",
    proof_seconds: int = 10,
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
    + proof: a shell command that succeeds when the unit does its work, and says what is wrong if not. Asked after
      a start, restart or reload
    + proof_seconds: how long that may take

    A unit that does not come up, or is not proved, gets back what it ran with before, as far as the sets are
    `revertible`, and the operation fails.

    What it was last told is kept on the node, so a run that dies between the change and the restart is made
    good by the next. The sets are checked again before that.

    **Example:**

    .. code:: python

        unit(name="redis-server runs", unit="redis-server", restarted_if=REDIS)
    """
    state: UnitState = present(_question(unit))[canonical(unit)]
    name = state.id
    given = {"restart": restarted_if, "reload": reloaded_if}
    sets = {key: (one,) if isinstance(one, ConfigSet) else one for key, one in given.items() if one}
    if sets and (masked or not running):
        raise OperationError(f"{name}: only a unit that should run can be restarted or reloaded")
    wanted = {
        key: hashlib.sha256(
            "".join(digest(one, rendered(one, host_data())) for one in of).encode()
        ).hexdigest()
        for key, of in sets.items()
    }
    found = steps(state, sets, wanted, running=running, enabled=enabled, masked=masked, busy=busy)
    if not found:
        host.noop(f"{name} is {'masked' if masked else 'as it should be'}")
    more = (patience, proof, proof_seconds)
    for step in found:
        if isinstance(step, Unless):
            ways = ([commands(name, one, *more) for one in way] for way in (step.then, step.otherwise))
            yield FunctionCommand(_run_unless, (name, step.busy, *ways), {})
        else:
            yield commands(name, step, *more)
