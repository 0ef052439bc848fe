"""How `make mutants` judges what mutmut found."""

from tests.mutants import count, objections

SAID = [
    "    node.probe.x_ask__mutmut_1: killed",
    "    node.probe.xǁHealthǁafter__mutmut_2: survived",
    *(f"    node.probe.x__ask__mutmut_{number}: timeout" for number in range(9)),
    "    node.hitratio.x_read__mutmut_1: no tests",
    "something else",
]


def test_each_module_is_counted_and_what_is_not_accounted_for_is_named() -> None:
    modules = count(SAID)
    assert {name: (module.faults, dict(module.unnoticed)) for name, module in modules.items()} == {
        "node.probe": (11, {"Health.after": 1}),
        "node.hitratio": (1, {"read": 1}),
    }
    one = {"faults": 1, "why": "x"}
    assert objections(modules, {"node.probe.Health.after": one, "node.hitratio.read": one}) == [
        "node.hitratio: 0.0% of 1 faults are noticed, not 90%"
    ]
    assert objections(modules, {"node.hitratio.read": one})[0] == (
        "node.probe.Health.after: 1 faults are not noticed, 0 accounted for"
    )
