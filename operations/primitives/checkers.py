"""How the services themselves judge their configuration: one shell command each."""

from facts.fstab import VERIFY

# How long a checker may take, when its set lands and when a unit is about to be told of it.
CHECK_SECONDS = 60
# A checker is a shell command that gets the paths of the set as its arguments. It is run as root with the new
# files in place, and refuses them by a non-zero exit and whatever it prints.
CHECKERS = {
    # With everything else that is rotated: two rules for one file are an error. Another's log that is not there is his.
    "logrotate": """
        logrotate --debug /etc/logrotate.conf 2>&1 | grep -F error: |
            { ! grep -F -e "${1##*/}" -e "duplicate log entry"; }
    """,
    # What a line asks for is made at once; a line that systemd-tmpfiles does not understand is refused.
    "tmpfiles": 'exec systemd-tmpfiles --create "$@"',
    # A warning is a refusal too: of two servers with one name nginx ignores the second, and only warns. What it says
    # of a line in another's file (a type named twice, `listen … http2`) was there before.
    "nginx": r"""
        said=$(nginx -t 2>&1) || { printf '%s\n' "$said"; exit 1; }
        ours=$(
            printf '%s\n' "$said" | grep -F '[warn]' | grep -v -E ' in /.+:[0-9]+$'
            for path; do printf '%s\n' "$said" | grep -F '[warn]' | grep -F " in $path:"; done
        )
        [ -z "$ours" ] || { printf '%s\n' "$ours"; exit 1; }
    """,
    "fstab": f"exec {VERIFY}",
    # A real start: the server itself parses its configuration ($1) and its users ($2). It listens on a socket
    # of its own only. "NOAUTH" is the answer of a server that is up and does not know us.
    "redis": r"""
        exec runuser -u redis -- sh -c '
            scratch=$(mktemp -d) && cd "$scratch" && sed "s/^#.*//" "$2" >users.acl || exit 1
            redis-server "$1" --aclfile "$scratch/users.acl" --dir "$scratch" \
                --port 0 --unixsocket "$scratch/s" --unixsocketperm 700 \
                --daemonize no --supervised no --pidfile "" --logfile "" >log 2>&1 &
            server=$! tries=0
            trap "kill -9 $server 2>/dev/null; rm -rf \"$scratch\"" EXIT
            while kill -0 $server 2>/dev/null && [ $((tries += 1)) -le 600 ]; do
                case $(timeout 5 redis-cli -s s ping 2>&1) in PONG | NOAUTH*) exit 0 ;; esac
                sleep 0.05
            done
            kill -0 $server 2>/dev/null && echo "redis-server started and does not answer"
            banner="oO0O|Redis version|Configuration loaded|Server initialized|WARNING Memory overcommit"
            grep -v -E "^[0-9]+:.* (\*|# ($banner))" log |
                sed -e "s|$scratch/users.acl|$2|" -e "s/^[0-9]*:[A-Z] .* # //"
            exit 1
        ' check "$@"
    """,
    # Of unit files and drop-ins: what systemd says about them. A unit that is not installed yet can't be
    # read; `unit` checks again before it applies the set.
    "systemd": r"""
        for path; do
            case $path in
                /etc/systemd/system/*.d/*) unit=${path%.d/*} ;;
                /etc/systemd/system/*) unit=$path ;;
                *) continue ;;
            esac
            unit=${unit##*/}
            systemctl cat "$unit" >/dev/null 2>&1 || continue
            systemd-analyze --man=no verify "$unit" 2>&1 | grep -F -e "$path" -e "$unit: Command" && exit 1
        done
        exit 0
    """,
}
