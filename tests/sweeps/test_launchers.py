"""Sweeps whose runs are processes of their own, by every launcher that there is on this machine."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import SMALL, results, tsv_exp_in_an_interpreter

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
    arguments = ["-m", "method=tsv_m", *SMALL[1:], "alpha=fixed", f"hydra/launcher={launcher}"]
    if launcher == "ray":
        arguments.append("hydra.launcher.ray.remote.num_cpus=1")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    first = tsv_exp_in_an_interpreter(*arguments, SMALL[0], "model.base=null,damaged.safetensors", folder=tmp_path)
    assert first.returncode == 1, first.stderr
    found = results(tmp_path)
    assert sorted(entry["status"] for entry in found) == ["failed", "ok"], first.stderr
    assert all("damaged.safetensors" in entry["error"] for entry in found if entry["status"] == "failed")
    assert "1 ran, 0 reused, 1 without results" in first.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/**/report.html"))) == 1
    again = tsv_exp_in_an_interpreter(*arguments, SMALL[0], folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "0 ran, 1 reused, 0 without results" in again.stderr
