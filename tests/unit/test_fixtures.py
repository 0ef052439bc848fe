"""Facts on recorded output, operations on given facts: one YAML file each, below fixtures/."""

from pathlib import Path

import pytest
from pyinfra_testing.facts import make_fact_tests
from pyinfra_testing.operations import make_operation_tests

FIXTURES = Path(__file__).with_name("fixtures")

# The command of this one is longer than all it says; tests/lab runs it on every manager and suite.
TestDefaultInterface = pytest.mark.filterwarnings("ignore:No command set")(
    make_fact_tests("facts", "network.DefaultInterface", FIXTURES / "network.DefaultInterface")
)
TestFileStates = make_fact_tests("facts", "files.FileStates", FIXTURES / "files.FileStates")
TestUnitStates = make_fact_tests("facts", "units.UnitStates", FIXTURES / "units.UnitStates")
TestMemoryTotal = make_fact_tests("facts", "memory.MemoryTotal", FIXTURES / "memory.MemoryTotal")
TestStaticAddress = make_operation_tests(
    "operations", "address.static_address", FIXTURES / "address.static_address"
)
TestUnit = make_operation_tests("operations", "unit.unit", FIXTURES / "unit.unit")
TestSysctl = make_fact_tests("facts", "sysctl.Sysctl", FIXTURES / "sysctl.Sysctl")
TestSysctlOperation = make_operation_tests("operations", "sysctl.sysctl", FIXTURES / "sysctl.sysctl")
TestKeptAside = make_operation_tests("operations", "nginx.kept_aside", FIXTURES / "nginx.kept_aside")
