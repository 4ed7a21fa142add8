"""Sweeps whose runs are processes of their own, by every launcher that there is on this machine."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import results, tsv_exp, tsv_exp_in_an_interpreter
from linear import Linear
from safetensors.torch import save_file

PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
CELLS = ["-m", "--config-dir=conf", "model=own", "tasks=[digits,clock]", "method=tsv_m", "alpha=fixed"]
CELLS += ["evaluate.precision=float32"]
FILES = {
    "conf/model/own.yaml": "_target_: own.Own\nbase: base.safetensors\n",
    "own.py": """
from linear import Linear
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.tasks.task import Task

class Own(Linear):
    def __init__(self, base):
        super().__init__()
        self.file = base

    def base(self):
        return open_weights(self.file)

    def task(self, name, definition):
        return Task(name, ("x", "y", "z"), ("{}",))

    def head(self, task):
        return self.heads["a"]
""",
}


def installed(plugin: str) -> bool:
    try:
        return find_spec(f"hydra_plugins.{plugin}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_sweep_side_by_side(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed(PLUGINS[launcher]):
        pytest.skip(f"the extra for hydra/launcher={launcher} is not installed")
    for file, text in FILES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    for name in ("base", "copied"):
        save_file(Linear().base(), tmp_path / f"{name}.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    assert tsv_exp(*CELLS, folder=tmp_path).returncode == 0
    cells = [*CELLS, "model.base=base.safetensors,damaged.safetensors,copied.safetensors", f"hydra/launcher={launcher}"]
    if launcher == "ray":
        cells.append("hydra.launcher.ray.remote.num_cpus=1")
    done = tsv_exp_in_an_interpreter(*cells, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    _, *found = results(tmp_path)
    assert sorted(entry["status"] for entry in found) == ["failed", "ok", "ok"], done.stderr
    assert all("damaged.safetensors" in entry["error"] for entry in found if entry["status"] == "failed")
    assert "1 ran, 1 reused, 1 without results" in done.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/**/report.html"))) == 2
