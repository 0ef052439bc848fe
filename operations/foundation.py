"""Phase 0, for every node: who it is on the LAN, and how it treats its packages, its card and its logs."""

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import server

from facts.config_txt import ConfigTxt, ConfigTxtState
from facts.fstab import Fstab
from facts.identity import Identity
from facts.machine import Machine
from operations.primitives.address import ADDRESS, static_address
from operations.primitives.clock import clock, is_wrong
from operations.primitives.config_set import ConfigSet, config_set
from operations.primitives.kept_aside import kept_aside
from operations.primitives.overrides import giving_way, prevailing
from operations.primitives.packages import packages
from operations.primitives.preflight import seen
from operations.primitives.sysctl import sysctl
from operations.primitives.unit import unit
from operations.services.apt import APT
from operations.services.cloud_init import cloud_init
from operations.services.config_txt import config_txt, with_gpu_memory
from operations.services.fstab import fstab
from operations.services.hosts import hosts
from operations.services.journal import JOURNALD
from operations.services.kernel import SYSCTL
from operations.services.resolved import RESOLVED


@deploy("Foundation")
def foundation() -> None:
    machine = seen(Machine, _sudo=False)
    if others := giving_way(ADDRESS.files):
        config_set(name="Nobody else says how a change of the address is undone", config=ConfigSet(others))
    static_address(
        name="Static address",
        address=f"{host.data.address}/{host.data.lan_prefix_length}",
        gateway=host.data.lan_gateway,
        dns=host.data.lan_dns,
        confirm_seconds=host.data.address_confirm_seconds,
        interface=host.data.lan_interface,
    )
    unit(name="What is not confirmed is undone at boot", unit=ADDRESS.unit, running=None)

    hostname = host.name.upper()
    identity = seen(Identity)
    # First the name's entry, then the name: sudo complains of a name it cannot resolve.
    config_set(name="Its name in /etc/hosts", config=hosts(identity.hosts, hostname))
    if {identity.hostname, identity.static} != {hostname}:
        server.shell(name="Hostname", commands=[f"hostnamectl set-hostname {hostname}"])
    if machine["cloud_init"]:
        config_set(name="cloud-init keeps the hostname", config=cloud_init(identity.cloud_init))

    if is_wrong(machine["ahead"], machine["synchronised"], machine["virtualization"]):
        clock(name="The clock, until time synchronisation has it", ahead=machine["ahead"])
    config_set(name="apt keeps configuration files and waits for its lock", config=prevailing(APT))
    packages(name="Packages of every node", names=host.data.packages)

    journald = prevailing(JOURNALD)
    config_set(name="Journal in RAM", config=journald)
    unit(name="journald runs so", unit="systemd-journald", restarted_if=journald, enabled=None)

    if machine["resolved"]:
        resolved = prevailing(RESOLVED)
        config_set(name="No names by multicast", config=resolved)
        unit(name="systemd-resolved runs so", unit="systemd-resolved", restarted_if=resolved, enabled=None)

    config_set(name="Kernel settings at boot", config=prevailing(SYSCTL))
    sysctl(name="Kernel settings now", settings=host.data.sysctl_settings)

    for service in host.data.units_masked:
        unit(name=f"{service} never runs", unit=service, masked=True)
    # In a container the clock is the machine's, and timesyncd's own condition keeps it from starting.
    unit(
        name="Time synchronisation",
        unit="systemd-timesyncd",
        running=True if machine["virtualization"] == "none" else None,
    )
    unit(name="Logs are rotated", unit="logrotate.timer")

    firmware: ConfigTxtState = seen(ConfigTxt)
    text = with_gpu_memory(firmware.text, firmware.included, host.data.gpu_memory)
    if firmware.path and text != firmware.text:
        kept_aside(name="A copy of config.txt", paths=(firmware.path,))
        config_set(name="No memory for the GPU", config=config_txt(firmware, text))
    if host.data.fstab_hardened:
        config_set(name="Hardened fstab", config=fstab(host.get_fact(Fstab)))
