"""What the operator is told when a node goes away in the middle of a deploy."""

from pyinfra import host, logger
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.ssh import SSHConnector


class _Lost(BaseStateCallback):
    """pyinfra's own words for it are "executed 0 commands", or "could not load fact"."""

    @staticmethod
    def host_disconnect(state: State, host: Host) -> None:
        """The end of the run, or a connection that an operation ends itself; then the host has not failed."""
        if host not in state.failed_hosts or not isinstance(host.connector, SSHConnector):
            return
        if host.connector.client is None:
            return
        transport = host.connector.client.get_transport()
        if transport is not None:
            transport.join(1.0)  # its channels are closed a moment before it is
        if transport is None or not transport.is_active():
            logger.error(
                f"{host.print_prefix}the connection is lost; run the deploy again when the node answers,"
                " and it goes on from here"
            )


def explain_lost_connections() -> None:
    """Say so in a sentence, from here on, for every node of this run."""
    handlers = host.state.callback_handlers
    if not any(isinstance(handler, _Lost) for handler in handlers):
        handlers.append(_Lost())
