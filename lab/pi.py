"""What makes a minimal Debian tree a Raspberry Pi on its first day: shell scripts, run as root of the tree."""

MANAGERS = ("networkmanager", "dhcpcd", "networkd", "netplan", "imager")

# The functions of raspi-config 20241017 (bookworm), by name. There has been no do_memory_split since 2023.
RASPI_CONFIG = """
calc_wt_size can_configure clear_config_var clear_overclock deb_ver disable_bootro disable_overlayfs
disable_raspi_config_at_boot do_about do_advanced_menu do_apply_os_config do_audio do_audioconf do_blanking
do_boot_behaviour do_boot_order do_boot_rom do_boot_splash do_browser do_camera do_change_keyboard_rc_gui
do_change_locale do_change_locale_rc_gui do_change_pass do_change_timezone do_change_timezone_rc_gui
do_composite do_configure_keyboard do_display_menu do_expand_rootfs do_fan do_finish do_glamor do_gldriver
do_hostname do_i2c do_interface_menu do_internationalisation_menu do_leds do_legacy do_net_names do_onewire
do_overclock do_overlayfs do_overscan do_overscan_kms do_pci do_performance_menu do_pi4video do_proxy
do_proxy_menu do_resolution do_rgpio do_rpi_connect do_serial do_serial_cons do_serial_hw do_serial_pi5
do_spi do_squeekboard do_ssh do_system_menu do_update do_usb_current do_vnc do_vnc_resolution do_wayland
do_wifi_country do_wifi_ssid_passphrase do_xcompmgr enable_bootro enable_overlayfs get_autologin
get_blanking get_boot_cli get_boot_splash get_bootro_conf get_bootro_now get_browser get_camera
get_can_expand get_composite get_config_var get_fan get_fan_gpio get_fan_temp get_hostname get_i2c
get_json_string_val get_leds get_legacy get_net_names get_onewire get_overlay_conf get_overlay_now
get_overscan get_overscan_kms get_package_version get_pci get_pi4video get_pi_type get_proxy get_rgpio
get_rpi_connect get_serial_cons get_serial_hw get_spi get_squeekboard get_ssh get_usb_current get_vnc
get_vnc_resolution get_wifi_country gpu_has_mmu has_analog is_64bit is_installed is_kms is_labwc is_live
is_pi is_pifive is_pifour is_pione is_pithree is_pitwo is_pizero is_pulseaudio is_ssh is_uname_current
is_wayfire is_wayland list_wlan_interfaces nonint set_config_var set_overclock update_labwc_keyboard
update_wayfire_keyboard
"""
# It stands for raspi-config, which is not in Debian: what that does not know fails as it does there, and what it knows
# does nothing here but for the questions about config.txt.
STAND_IN = f"""#!/bin/sh
[ "$1" = nonint ] || exit 0
shift
known="{" ".join(RASPI_CONFIG.split())}"
case " $known " in
  *" $1 "*) ;;
  *) echo "raspi-config: $1: not found" >&2; exit 127 ;;
esac
[ "$1" != get_config_var ] || {{ found=$(sed -n "s/^[[:space:]]*$2=//p" "$3" | head -n 1); echo "${{found:-0}}"; }}
"""
CONFIG_TXT = """\
# For more options and information see http://rptl.io/configtxt
dtparam=audio=on
camera_auto_detect=1
auto_initramfs=1
dtoverlay=vc4-kms-v3d
max_framebuffers=2
arm_64bit=1

[cm4]
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host

[all]
"""

# What every card of Raspberry Pi OS begins with; BARE or IMAGER follows in the same shell.
CARD = """
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
"""

# What makes a Debian tree a Pi on its first day. The manager's name is $1, the operator's public key $2,
# its name on a node $3; config.txt is $5, raspi-config $6.
BARE = """
set -e
ssh-keygen -q -A
useradd --create-home --shell /bin/bash --groups sudo,adm,systemd-journal "$3"
echo "$3 ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/010_pi-nopasswd
chmod 440 /etc/sudoers.d/010_pi-nopasswd
install -d -m 700 -o "$3" -g "$3" "/home/$3/.ssh"
echo "$2" > "/home/$3/.ssh/authorized_keys"; chown "$3:" "/home/$3/.ssh/authorized_keys"
chmod 600 "/home/$3/.ssh/authorized_keys"
printf '\\n# a local edit, as found on a node set up by hand\\nnodev\\n' >> /etc/dhcpcd.conf
# Its resolvconf would stand in NetworkManager's way; a Pi has it only where systemd-networkd is in charge.
[ "$1" = networkd ] || dpkg --purge systemd-resolved > /dev/null
systemctl -q disable NetworkManager NetworkManager-wait-online dhcpcd systemd-networkd
case "$1" in
  networkmanager)  # Raspberry Pi OS on bookworm
    systemctl -q enable NetworkManager NetworkManager-wait-online
    mkdir -p /boot/firmware
    printf '%s' "$5" > /boot/firmware/config.txt
    printf '%s' "$6" > /usr/bin/raspi-config; chmod 755 /usr/bin/raspi-config ;;
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
