"""How `make mutants` judges what mutmut found."""

from tests.mutants import count, fault, objections

SAID = [
    "    node.probe.x_ask__mutmut_1: killed",
    "    node.probe.xǁHealthǁafter__mutmut_2: survived",
    *(f"    node.probe.x__ask__mutmut_{number}: timeout" for number in range(9)),
    "    node.hitratio.x_read__mutmut_1: no tests",
    "    node.hitratio.x_load__mutmut_1: not checked",
    "something else",
]
DIFF = """# node.probe.x_ask__mutmut_1: survived
--- node/probe.py
+++ node/probe.py
@@ -6,7 +6,7 @@
     found = log.fileno()
-    first = log.readline()
+    first = None
     return first
"""


def diff(name: str) -> str:
    return f"+  {name}\n"


def test_each_module_is_counted_and_what_is_not_accounted_for_is_named() -> None:
    modules = count(SAID)
    after, read = "node.probe.xǁHealthǁafter__mutmut_2", "node.hitratio.x_read__mutmut_1"
    assert {name: (module.faults, dict(module.unnoticed)) for name, module in modules.items()} == {
        "node.probe": (11, {"Health.after": [after]}),
        "node.hitratio": (1, {"read": [read]}),
    }
    low = "node.hitratio: 0.0% of 1 faults are noticed, not 90%"
    assert objections(modules, {"node.probe.Health.after": [after], "node.hitratio.read": [read]}, diff) == [
        low
    ]
    assert objections(modules, {"node.hitratio.read": [read]}, diff) == [
        f"node.probe.Health.after: not noticed: {after}",
        low,
    ]


def test_one_fault_is_not_taken_for_another() -> None:
    """Also not where the function has lost an old one; and what is not there any more is not accounted for."""
    name = "node.probe.x_ask__mutmut_1"
    modules = count(
        [f"{name}: survived", *(f"node.probe.x_ask__mutmut_{number}: killed" for number in range(2, 12))]
    )
    assert objections(modules, {"node.probe.ask": ["first = 1"]}, diff) == [
        f"node.probe.ask: not noticed: {name}",
        "node.probe.ask: accounted for, but noticed or gone: first = 1",
    ]
    assert objections(modules, {"node.probe.ask": [name, name]}, diff) == [
        f"node.probe.ask: accounted for, but noticed or gone: {name}"
    ]
    # Of a module that was not run, and of one whose name begins alike, nothing is known.
    assert (
        objections(modules, {"node.probe.ask": [name], "node.probes.ask": ["x"], "node.x.y": ["x"]}, diff)
        == []
    )
    gone = objections(modules, {"node.probe.ask": [name], "node.probe.Health.after": ["x"]}, diff)
    assert gone == ["node.probe.Health.after: accounted for, but noticed or gone: x"]


def test_a_fault_is_what_its_line_became() -> None:
    assert fault(DIFF) == "first = None"
    assert fault("-    one,\n") == "without one,"
    assert fault("-  a = f(\n-    b)\n+  a = f(\n+    c)\n") == "a = f( c)"
