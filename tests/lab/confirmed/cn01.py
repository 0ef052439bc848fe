"""A drop-in of sshd by way of `confirmed`: who may log in, said so that only a new login proves it."""

import os
from collections.abc import Generator

from pyinfra import logger
from pyinfra.api import FunctionCommand, Host, State, operation

from facts.files import FileStates
from operations.primitives.confirmed import Confirmation, ConfirmationError, NewFile, plain, request

PATH = "/etc/ssh/sshd_config.d/00-lab.conf"
RELOAD = [["sshd", "-t"], ["systemctl", "reload", "ssh"]]


def change(state: State, host: Host, text: str) -> bool:
    try:
        kind = plain("sshd")
        confirmation = Confirmation(host, kind, "the drop-in of sshd", 15)
        there = host.get_fact(FileStates, paths=(PATH,)).files.get(PATH)
        wanted = request(
            [NewFile(PATH, "644", text.encode(), there.sha256 if there else None)], RELOAD, RELOAD
        )
        confirmation.learn_keys()
        confirmation.install(kind.files.files)
        confirmation.arm(wanted)
        confirmation.confirm(wanted["sha256"], confirmation.before, [])
    except ConfirmationError as error:
        host.log_styled(str(error), fg="red", log_func=logger.error)
        return False
    return True


@operation()
def drop_in(text: str) -> Generator[FunctionCommand, None, None]:
    yield FunctionCommand(change, (text,), {})


drop_in(name="Drop-in of sshd", text=os.environ["DROP_IN"])
