"""Facts on recorded output, operations on given facts: one YAML file each, below fixtures/."""

from pathlib import Path

from pyinfra_testing.facts import make_fact_tests
from pyinfra_testing.operations import make_operation_tests

FIXTURES = Path(__file__).with_name("fixtures")

TestFileStates = make_fact_tests("facts", "files.FileStates", FIXTURES / "files.FileStates")
TestUnitStates = make_fact_tests("facts", "units.UnitStates", FIXTURES / "units.UnitStates")
TestMemoryTotal = make_fact_tests("facts", "memory.MemoryTotal", FIXTURES / "memory.MemoryTotal")
TestUnit = make_operation_tests("operations", "unit.unit", FIXTURES / "unit.unit")
TestSysctl = make_fact_tests("facts", "sysctl.Sysctl", FIXTURES / "sysctl.Sysctl")
TestSysctlOperation = make_operation_tests("operations", "sysctl.sysctl", FIXTURES / "sysctl.sysctl")
