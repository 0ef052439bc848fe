"""Before phase 0: what can be known of a node by looking is known, and said, before anything on it changes."""

from pyinfra import host

from facts.config_txt import ConfigTxt
from facts.identity import Identity
from facts.machine import Machine
from facts.several import Question
from operations.primitives import overrides
from operations.primitives.address import ADDRESS
from operations.primitives.config_set import host_data
from operations.primitives.preflight import Look, look, refuse, seen
from operations.primitives.secret import missing
from operations.services import (
    address,
    apt,
    cloud_init,
    exporters,
    fstab,
    machine,
    nginx,
    nginx_logs,
    nginx_strangers,
    redis,
    sockets,
)
from operations.services.hit_ratio import HIT_RATIO
from operations.services.journal import JOURNALD
from operations.services.kernel import SYSCTL
from operations.services.probe import PROBE


def preflight(*roles: str) -> None:
    """Two commands: one as the operator, on whether there is a way to become root, and one for all the rest."""
    found = seen(Machine, _sudo=False)
    if not found:
        refuse([f"the login shell of {host.data.ssh_user} ran no command: it has to be a shell"])
    refuse(machine.findings(found, host.data.ssh_user))
    data = host_data()
    names = list(host.data.packages)
    looks = [
        Look((Question(Identity), Question(ConfigTxt))),
        address.look(data),
        fstab.look(data),
        cloud_init.look(),
        overrides.look(data, ADDRESS.files, apt.APT, JOURNALD, SYSCTL),
    ]
    if "backends" in roles:
        names += redis.PACKAGES
        looks += [
            Look((), lambda: missing(*redis.SECRETS.values())),
            redis.look(data),
            sockets.look(*redis.sockets(data)),
            overrides.look(data, redis.SERVICE, aliases=redis.ALIASES),
        ]
    if "frontends" in roles:
        names += [*nginx.PACKAGES, *exporters.PACKAGES]
        looks += [
            nginx_strangers.look(found["release"].rpartition(" ")[2], host.name.upper(), data),
            nginx_logs.look(data),
            sockets.look(*nginx.sockets(data), *exporters.sockets(data)),
            overrides.look(data, nginx.service(data), nginx.HOURLY, PROBE, HIT_RATIO, exporters.NGINX),
        ]
    look([*looks, apt.look(names)])
