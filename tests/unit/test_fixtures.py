"""Facts on recorded output, operations on given facts: one YAML file each. A folder named MODULE.NAME below
facts/fixtures, operations/primitives/fixtures or operations/services/fixtures is the class or operation it is for."""

from pathlib import Path

import pytest
from pyinfra_testing.facts import make_fact_tests
from pyinfra_testing.operations import make_operation_tests

UNIT = Path(__file__).parent
ROOMS = {
    "facts": make_fact_tests,
    "operations/primitives": make_operation_tests,
    "operations/services": make_operation_tests,
}
# The command of these is longer than all they say; tests/lab runs it on every manager and suite.
WITHOUT_COMMAND = pytest.mark.filterwarnings("ignore:No command set")

for room, make in ROOMS.items():
    for folder in sorted((UNIT / room).glob("fixtures/*")):
        name = f"Test_{room}_{folder.name}".replace("/", "_").replace(".", "_")
        globals()[name] = WITHOUT_COMMAND(make(room.replace("/", "."), folder.name, folder))
