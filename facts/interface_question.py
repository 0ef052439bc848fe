"""What is asked about the interface to the LAN, in one command: pure, with the standard library."""

import shlex

from facts.interface import (
    ADDRESS_GUARD,
    DHCPCD,
    GUARD_UNIT,
    NETPLAN,
    NETPLAN_HIDES,
    NETWORKD,
    NETWORKMANAGER,
    PENDING,
    UNITS,
)
from facts.ours import GUARD

# For how long, in seconds, an answer that is about to change is waited for.
SETTLE_SECONDS = 20

# netplan's files hold passwords, so only what is about addresses leaves the node with its value: one line for
# each file and definition, [path, id, {setting: value or null}], the id being null for what a file says for all of
# them, in netplan's order: by name, whatever the
# folder. What /etc hides of /lib is not told, what /run hides is: /run is gone after a boot. netplan brings
# python3-yaml.
NETPLAN_PROGRAM = """
import glob, json, os, yaml
told = ("addresses", "gateway4", "routes", "nameservers", "dhcp4", "match", "renderer")
lib, etc, run = (glob.glob(folder + "/netplan/*.yaml") for folder in ("/lib", "/etc", "/run"))
lasting = {os.path.basename(path): path for path in lib + etc}
for path in sorted([*lasting.values(), *run], key=os.path.basename):
    with open(path) as file:
        network = (yaml.safe_load(file) or {}).get("network") or {}
    if "renderer" in network:
        print(json.dumps([path, None, {"renderer": network["renderer"]}]))
    for kind in network.values():
        for identity, settings in kind.items() if isinstance(kind, dict) else ():
            if isinstance(settings or {}, dict):
                said = {key: value if key in told else None for key, value in sorted((settings or {}).items())}
                print(json.dumps([path, identity, said], default=str))
"""

# One `::section` per question. sudo hides the session's variables from its child, but not from root: the
# process that sshd started has them. Over IPv6 link-local the address names its interface. dhcpcd and netplan
# are asked with their own eyes only where they are there.
_COMMAND = rf"""
interface=@INTERFACE@
if [ -z "$interface" ]; then
  pid=$$; session=
  while [ "${{pid:-0}}" -gt 1 ] && [ -z "$session" ]; do
    session=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=//p' | head -n 1)
    pid=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$pid/status")
  done
  own=$(echo "$session" | cut -d ' ' -f 3)
  case $own in
    *%*) interface=${{own##*%}} ;;
    ?*) interface=$(ip -o address show |
      awk -v own="$own" '$4 == own || index($4, own "/") == 1 {{ print $2; exit }}') ;;
    *) interface=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1) ;;
  esac
fi
echo ::interface; echo "$interface"
echo ::interfaces; ls /sys/class/net
{{ ! test -e "/sys/class/net/$interface/wireless" && ! test -e "/sys/class/net/$interface/phy80211"; }} ||
  echo ::wireless
# Whether what systemd says of a unit has this in it.
in_state() {{
  echo "$units" | awk -v id="Id=$1.service" -v state="$2" 'BEGIN {{ RS = ""; FS = "\n" }}
    $1 == id && $0 ~ state {{ yes = 1 }}
    END {{ exit !yes }}'
}}
# Whether a unit runs, or will after the next boot.
claims() {{
  in_state "$1" '\n(ActiveState=(active|reloading)|UnitFileState=(enabled|static|alias|indirect|generated))'
}}
# While a node boots, or a manager is started, what is so now is about to change.
on_the_way() {{
  case $units in *Job=[1-9]* | *State=activating* | *State=reloading* | *State=deactivating*) return 0 ;; esac
  test -n "$interface" && test -e "/sys/class/net/$interface" || return 1
  {{ in_state NetworkManager '\nActiveState=active' && test -z "$device"; }} ||
  {{ in_state systemd-networkd '\nActiveState=active' && test -z "$network"; }} ||
  {{ test "$(cat "/sys/class/net/$interface/carrier" 2>/dev/null)" = 1 &&
    ! test -e "/sys/class/net/$interface/master" && test -z "$(ip -o -4 address show dev "$interface")"; }}
}}
read -r up rest </proc/uptime; until=$((${{up%.*}} + {SETTLE_SECONDS}))
while
  # First: D-Bus starts systemd-networkd for whoever asks it, also where it has failed. It may fail again, which takes
  # 50 s until D-Bus says so.
  network=$(timeout 5 networkctl --json=short status "$interface" 2>/dev/null |
    grep -oE '"(AdministrativeState|NetworkFile)":"[^"]*"')
  units=$(systemctl show -p Id -p ActiveState -p UnitFileState -p Job dbus.service {" ".join(UNITS.values())})
  device=$(nmcli -t -f GENERAL.STATE,GENERAL.CON-UUID,CONNECTIONS device show "$interface" 2>/dev/null)
  on_the_way
do
  read -r up rest </proc/uptime; [ "${{up%.*}}" -lt "$until" ] || break
  sleep 0.5
done
echo ::link; ip -json -details link show dev "$interface" 2>/dev/null
echo ::route; ip -json -4 route show default
echo ::address; ip -json -4 address show dev "$interface" 2>/dev/null
echo ::units; echo "$units"
# nmcli is slow to start: twice is enough for all that is asked of it.
if [ -n "$device" ]; then
  connections=$(nmcli -t -f ACTIVE,UUID,AUTOCONNECT,AUTOCONNECT-PRIORITY,FILENAME,NAME connection show)
  active=$(printf '%s\n' "$connections" | sed -n 's/^yes:\([^:]*\):[^:]*:[^:]*:/\1:/p')
  uuid=$(printf '%s\n' "$device" | sed -n 's/^GENERAL.CON-UUID://p')
  echo ::networkmanager; printf '%s\n' "$device" | sed -n 's/^GENERAL.STATE://p'; echo "$uuid"
  echo ::connections; printf '%s\n' "$active"
  echo ::available; printf '%s\n' "$device" | grep '^CONNECTIONS.AVAILABLE-CONNECTIONS'
  echo ::profiles; printf '%s\n' "$connections" | cut -d : -f 2-
  profile=$(printf '%s\n' "$active" | sed -n "s/^$uuid:\(\([^:\\]\|\\\\.\)*\):.*/\1/p" | sed 's/\\\(.\)/\1/g')
  echo ::profile
  ! test -e "$profile" || awk '/^\[/ {{ told = !/^\[(802-1x|wifi-security|vpn-secrets|wireguard)/; print; next }}
    told' "$profile"
fi
echo ::networkd; echo "$network"
if claims systemd-networkd; then
  file=$(echo "$network" | sed -n 's/^"NetworkFile":"\(.*\)"/\1/p')
  echo ::network
  test -z "$file" || systemd-analyze cat-config "systemd/network/${{file##*/}}" 2>/dev/null
  set -- /etc/systemd/network /run/systemd/network /usr/local/lib/systemd/network /usr/lib/systemd/network
  for name in $(find "$@" -maxdepth 1 -name '*.network' -printf '%f\n' 2>/dev/null | sort -u); do
    for folder; do
      test -e "$folder/$name" || continue
      echo "::file-of-networkd $folder/$name"; awk '/^\[/ {{ told = /^\[Match\]/ }} told' "$folder/$name"
      break
    done
  done
  for folder; do
    for file in "$folder/{NETWORKD.rpartition("/")[2]}.d"/*.conf; do
      ! test -e "$file" || echo "::drop-in $file"
    done
  done
fi
if claims dhcpcd; then
  echo ::dhcpcd; base64 -w 0 {DHCPCD}; echo
fi
echo ::clients
! systemctl -q is-enabled "dhcpcd@$interface" 2>/dev/null || echo "dhcpcd@$interface.service - dhcpcd"
grep -slxE 'dhcpcd|dhclient|udhcpc' /proc/[0-9]*/comm | while read -r process; do
  process=${{process%/comm}}
  test "$(readlink "$process/ns/net")" = "$(readlink /proc/$$/ns/net)" || continue  # a container's
  words=" $(tr '\0' ' ' 2>/dev/null <"$process/cmdline") "
  case $words in *" $interface "*) ;; *)
    for other in /sys/class/net/*; do case $words in *" ${{other##*/}} "*) continue 2 ;; esac; done
  esac
  unit=$(grep -v /user@ "$process/cgroup" 2>/dev/null | grep -o '[^/]*\.service' | tail -n 1)
  echo "${{unit:--}} ${{process##*/}} $(cat "$process/comm" 2>/dev/null)"
done
if command -v ifquery >/dev/null && {{ ifquery --state "$interface" >/dev/null 2>&1 ||
  ifquery --list 2>/dev/null | grep -qxF "$interface"; }}; then echo ::ifupdown; fi
if [ -n "$(ls /lib/netplan/*.yaml /etc/netplan/*.yaml /run/netplan/*.yaml 2>/dev/null)" ]; then
  echo ::netplan; python3 - <<'END'
{NETPLAN_PROGRAM}
END
  ! test -e {NETPLAN_HIDES} || echo "::drop-in {NETPLAN_HIDES}"
fi
for path in {NETWORKMANAGER} {NETPLAN} {NETWORKD} {DHCPCD} {GUARD} {ADDRESS_GUARD} {GUARD_UNIT}; do
  ! test -e "$path" || {{ echo "::file $path"; stat -c '%a %U' "$path"; sha256sum <"$path"; }}
done
! test -e /etc/systemd/system/multi-user.target.wants/{GUARD_UNIT.rpartition("/")[2]} || echo ::guard-enabled
! test -e {PENDING} || {{ echo ::pending; cat {PENDING}; echo; }}
"""


def command(interface: str) -> str:
    """The question, for the interface of this name; "" asks for the one that carries the session, and where
    there is no session (nothing but SSH has one) for the one with the default route."""
    return _COMMAND.replace("@INTERFACE@", shlex.quote(interface))
