from pathlib import Path

import pytest

from tests.unit.operations.services.etc_nginx import Etc


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    return Etc(tmp_path / "nginx")
