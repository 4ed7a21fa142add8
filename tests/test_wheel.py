"""The wheel that is built from this working copy carries everything that the installed package reads."""

from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_data_licences_and_configuration(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel")
    (wheel,) = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(wheel) as archive:
        found = {entry.filename: entry.file_size for entry in archive.infolist()}
    package = [path for path in (ROOT / "tsv_exp").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    configuration = [path for path in (ROOT / "conf").rglob("*.yaml") if "local" not in path.parts]
    wanted = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in package}
    wanted |= {f"tsv_exp/{path.relative_to(ROOT).as_posix()}": path.stat().st_size for path in configuration}
    assert {name: found.get(name) for name in wanted} == wanted
    for part in ("benchmark/data/cities.json.gz", "benchmark/licences/WordNet-3.0.txt", "benchmark/NOTICE.md"):
        assert f"tsv_exp/models/text/{part}" in wanted
    assert "tsv_exp/models/tiny/base.safetensors" in wanted
    assert "tsv_exp/conf/task/cities.yaml" in wanted
