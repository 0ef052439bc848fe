"""A profile made by nmcli where NetworkManager keeps its profiles as netplan's files.

Debian's NetworkManager does not: Raspberry Pi OS' (trixie) and Ubuntu's do, by calls of netplan's own library. Those
are made here.
"""

from tests.lab.conftest import Lab

TO_NETPLAN = """
import ctypes, glob, os, sys
netplan = ctypes.CDLL(glob.glob("/usr/lib/*/libnetplan.so.*")[0])
for name in ("parser_new", "state_new", "state_get_netdef"):
    getattr(netplan, f"netplan_{name}").restype = ctypes.c_void_p
keyfile, uuid = sys.argv[1:]
parser, state = ctypes.c_void_p(netplan.netplan_parser_new()), ctypes.c_void_p(netplan.netplan_state_new())
assert netplan.netplan_parser_load_keyfile(parser, keyfile.encode(), None)
assert netplan.netplan_state_import_parser_results(state, parser, None)
profile = ctypes.c_void_p(netplan.netplan_state_get_netdef(state, f"NM-{uuid}".encode()))
assert netplan.netplan_netdef_write_yaml(state, profile, None, None)
os.unlink(keyfile)
"""
# $1 is the program above, the others are the profile's settings.
ADD = """
program=$1; shift
nmcli -t connection add type ethernet ifname host0 con-name lan "$@" >&2
file=/etc/NetworkManager/system-connections/lan.nmconnection
uuid=$(sed -n s/^uuid=//p $file)
rm -f /etc/netplan/*.yaml
python3 -c "$program" $file "$uuid"
netplan generate && nmcli connection reload && nmcli connection up lan >&2
echo "/etc/netplan/90-NM-$uuid.yaml"
"""


def only_profile(lab: Lab, *settings: str) -> str:
    """The profile `lan` with these settings is cn01's only one, and up; its file."""
    return lab.execute("sh", "-ec", ADD, "sh", TO_NETPLAN, *settings).strip()
