"""Before phase 0: what can be known of a node by looking is known, and said, before anything on it changes."""

from pyinfra import host

from facts.config_txt import ConfigTxt
from facts.identity import Identity
from facts.machine import Machine
from facts.several import Question
from operations.primitives.config_set import host_data
from operations.primitives.preflight import Look, look, refuse, seen
from operations.services import address, machine, nginx_strangers, redis


def preflight(*roles: str) -> None:
    """Two commands: one as the operator, on whether there is a way to become root, and one for all the rest."""
    found = seen(Machine, _sudo=False)
    refuse(machine.findings(found, host.data.ssh_user))
    data = host_data()
    looks = [Look((Question(Identity), Question(ConfigTxt))), address.look(data)]
    if "backends" in roles:
        looks.append(redis.look(data))
    if "frontends" in roles:
        looks.append(nginx_strangers.look(found["release"].rpartition(" ")[2], host.name.upper(), data))
    look(looks)
