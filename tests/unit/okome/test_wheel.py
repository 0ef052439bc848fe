"""The wheel: the library and nothing else of this repository."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[3]


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path: Path) -> None:
    """Built as pip would, by the backend that pyproject.toml names; setuptools writes beside what it reads."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        (tree / path.name).symlink_to(path)
    for written in ("build", "okome.egg-info"):
        (tree / written).unlink(missing_ok=True)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("okome-*.whl")
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    library = {f"okome/{path.name}" for path in (ROOT / "okome").glob("*.py")}
    assert names == library | {"okome/py.typed"}
    assert "Requires-Dist: pyinfra" not in text
