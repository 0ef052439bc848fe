"""Which kernel settings are set, left, or unknown here."""

import pytest
from pyinfra.api import OperationValueError

from facts.sysctl import Setting
from operations.primitives.sysctl import different

WANTED = {"vm.swappiness": "10", "net.core.somaxconn": "4096"}


@pytest.mark.parametrize(
    ("swappiness", "somaxconn", "expected"),
    [
        (Setting("10", True), Setting("4096", True), ([], [])),
        (Setting("10", False), Setting("4096", False), ([], [])),
        (Setting("60", True), Setting("128", True), (["vm.swappiness", "net.core.somaxconn"], [])),
        (Setting("60", False), Setting("128", True), (["net.core.somaxconn"], ["vm.swappiness"])),
        (Setting("60", False), Setting("4096", True), ([], ["vm.swappiness"])),
    ],
)
def test_what_is_set_and_what_is_left(
    swappiness: Setting, somaxconn: Setting, expected: tuple[list[str], list[str]]
) -> None:
    assert different(WANTED, {"vm.swappiness": swappiness, "net.core.somaxconn": somaxconn}) == expected


def test_a_setting_that_the_kernel_does_not_have() -> None:
    with pytest.raises(OperationValueError, match=r"this kernel has no net\.core\.somaxconn"):
        different(WANTED, {"vm.swappiness": Setting("60", True)})
