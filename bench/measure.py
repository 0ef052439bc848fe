"""One measurement, its goal, and how both are printed."""

import json
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

HOLDS: MappingProxyType[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
)


@dataclass(frozen=True, slots=True)
class Measure:
    """What was measured, beside what, and what it should be.

    `unit` is "x" for a ratio, else ms, s, commands, ...; `against` names what the value was compared with,
    measured in the same run. A measure without `goal` is there to be read beside the others and always holds.
    """

    measure: str
    value: float
    unit: str
    against: str = ""
    goal: float | None = None
    sense: Literal["<=", ">=", "=="] = "<="

    @property
    def holds(self) -> bool:
        return self.goal is None or HOLDS[self.sense](self.value, self.goal)

    def as_dict(self) -> dict[str, Any]:
        """{measure, value, unit, goal, holds, against}; the table also shows which way the goal points."""
        fields = asdict(self)
        del fields["sense"]
        return {**fields, "holds": self.holds}


def as_json(measures: list[Measure]) -> str:
    return json.dumps([measure.as_dict() for measure in measures], indent=2)


def as_table(measures: list[Measure]) -> str:
    """Columns: measure, value with its unit, goal, whether it holds, against what."""
    rows: list[tuple[str, ...]] = [("measure", "value", "goal", "holds", "against")]
    for measure in measures:
        value = f"{measure.value:.4g} {measure.unit}"
        goal = "" if measure.goal is None else f"{measure.sense} {measure.goal:g}"
        holds = "" if measure.goal is None else "yes" if measure.holds else "NO"
        rows.append((measure.measure, value, goal, holds, measure.against))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
