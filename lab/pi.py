"""What makes a minimal Debian tree a Raspberry Pi on its first day: shell scripts, run as root of the tree."""

MANAGERS = ("networkmanager", "dhcpcd", "networkd", "netplan", "imager")

# What makes a Debian tree a Pi on its first day. The manager's name is $1, the operator's public key $2,
# the operator's name on a node $3.
BARE = """
set -e
echo raspberrypi > /etc/hostname
cat > /etc/hosts <<'HOSTS'
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
127.0.1.1 raspberrypi
HOSTS
: > /etc/machine-id  # systemd makes one at the first boot
rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -A
useradd --create-home --shell /bin/bash --groups sudo,adm,systemd-journal "$3"
echo "$3 ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/010_pi-nopasswd
chmod 440 /etc/sudoers.d/010_pi-nopasswd
install -d -m 700 -o "$3" -g "$3" "/home/$3/.ssh"
echo "$2" > "/home/$3/.ssh/authorized_keys"; chown "$3:" "/home/$3/.ssh/authorized_keys"
chmod 600 "/home/$3/.ssh/authorized_keys"
printf '\\n# a local edit, as found on a node set up by hand\\nnodev\\n' >> /etc/dhcpcd.conf
rm -f /etc/resolv.conf; : > /etc/resolv.conf
# Its resolvconf would stand in NetworkManager's way; a Pi has it only where systemd-networkd is in charge.
[ "$1" = networkd ] || dpkg --purge systemd-resolved > /dev/null
systemctl -q disable NetworkManager NetworkManager-wait-online dhcpcd systemd-networkd
case "$1" in
  networkmanager) systemctl -q enable NetworkManager NetworkManager-wait-online ;;
  dhcpcd) systemctl -q enable dhcpcd ;;
  networkd)
    systemctl -q enable systemd-networkd systemd-networkd-wait-online systemd-resolved
    ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf ;;
  netplan)
    systemctl -q enable NetworkManager NetworkManager-wait-online
    umask 077
    cat > /etc/netplan/50-cloud-init.yaml <<'YAML'
network:
  version: 2
  renderer: NetworkManager
  ethernets:
    wired:
      match: {name: "host*"}
      dhcp4: true
      optional: true
YAML
    ;;
esac
"""

# Raspberry Pi OS on trixie as Raspberry Pi Imager 2 leaves it on the card: pi-gen's image (stage2/04-cloud-init,
# renderer, sshd off) with the seed that Imager's customization_generator.cpp writes for a wired node with a name, a
# user, a key and sudo without a password. All else is done by Debian's cloud-init and netplan at the first boot.
# The operator's public key is $2, its name on a node $3, the instance $4.
IMAGER = """
set -e
echo raspberrypi > /etc/hostname
cat > /etc/hosts <<'HOSTS'
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback

127.0.1.1 raspberrypi
HOSTS
: > /etc/machine-id  # systemd makes one at the first boot
rm -f /etc/ssh/ssh_host_*
rm -f /etc/resolv.conf; : > /etc/resolv.conf
dpkg --purge systemd-resolved > /dev/null
systemctl -q disable ssh dhcpcd systemd-networkd
systemctl -q enable NetworkManager NetworkManager-wait-online
mkdir -p /boot/firmware /usr/lib/netplan
printf 'network:\\n  version: 2\\n  renderer: NetworkManager\\n' > /usr/lib/netplan/00-network-manager-all.yaml
cat > /etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg <<'CFG'
datasource_list: [ NoCloud, None ]
datasource:
  NoCloud:
    seedfrom: file:///boot/firmware/
CFG
echo '# a Pi that is on a wire needs nothing here' > /boot/firmware/network-config
echo "instance-id: $4" > /boot/firmware/meta-data
cat > /boot/firmware/user-data <<SEED
#cloud-config
manage_resolv_conf: false

hostname: raspberrypi
manage_etc_hosts: true
packages:
- avahi-daemon
apt:
  preserve_sources_list: true
  conf: |
    Acquire {
      Check-Date "false";
    };
timezone: Etc/UTC
user:
  name: $3
  shell: /bin/bash
  lock_passwd: true
  ssh_authorized_keys:
    - "$2"
  sudo: ALL=(ALL) NOPASSWD:ALL
ssh_pwauth: false
runcmd:
  - [ systemctl, enable, --now, ssh ]
  - [ sh, -c, "echo '$3 ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/010_$3-nopasswd" ]
  - [ chmod, '0440', '/etc/sudoers.d/010_$3-nopasswd' ]
SEED
"""
