"""The static address alone, and one thing after it: whether the run goes on at the new address."""

from pyinfra import host
from pyinfra.operations import files

from operations.primitives.address import static_address

static_address(
    name="Static address",
    address=f"{host.data.address}/{host.data.lan_prefix_length}",
    gateway=host.data.lan_gateway,
    dns=host.data.lan_dns,
    confirm_seconds=host.data.address_confirm_seconds,
    interface=host.data.lan_interface,
)
files.directory(name="What comes after it", path="/var/lib/okome/went-on")
