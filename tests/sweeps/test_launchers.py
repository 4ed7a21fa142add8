"""Sweeps whose runs are processes of their own, by every launcher that there is on this machine."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import SMALL, results, tsv_exp, tsv_exp_in_an_interpreter

from tsv_exp.models.tiny.network import BASE

PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}


def installed(plugin: str) -> bool:
    try:
        return find_spec(f"hydra_plugins.{plugin}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_sweep_side_by_side(launcher: str, tmp_path: Path) -> None:
    if not installed(PLUGINS[launcher]):
        pytest.skip(f"the extra for hydra/launcher={launcher} is not installed")
    cells = ["-m", "method=tsv_m", *SMALL, "alpha=fixed"]
    assert tsv_exp(*cells, folder=tmp_path).returncode == 0
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    shutil.copy(BASE, tmp_path / "copied.safetensors")
    cells += ["model.base=null,damaged.safetensors,copied.safetensors", f"hydra/launcher={launcher}"]
    if launcher == "ray":
        cells.append("hydra.launcher.ray.remote.num_cpus=1")
    done = tsv_exp_in_an_interpreter(*cells, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    _, *found = results(tmp_path)
    assert sorted(entry["status"] for entry in found) == ["failed", "ok", "ok"], done.stderr
    assert all("damaged.safetensors" in entry["error"] for entry in found if entry["status"] == "failed")
    assert "1 ran, 1 reused, 1 without results" in done.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/**/report.html"))) == 2
