"""What templates leave to the operations: they neither calculate, nor know what another file says too."""

from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from operations.primitives.config_set import TEMPLATES
from operations.services import hit_ratio, nginx, probe

SOURCES = sorted(TEMPLATES.rglob("*.j2"))
SUMS = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
OWNED = (
    nginx.ACCESS_LOG,
    nginx.ERROR_LOG,
    nginx.STATUS_LOCATION,
    probe.CACHE,
    probe.DOWN_FLAG,
    probe.FULL_FLAG,
    hit_ratio.STATE,
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(TEMPLATES).as_posix())
def test_a_template_calculates_nothing_and_names_no_path_that_has_an_owner(source: Path) -> None:
    text = source.read_text()
    tree = Environment().parse(text)  # noqa: S701 - nothing is rendered
    assert not list(tree.find_all(SUMS))
    assert not [path for path in OWNED if path in text]
