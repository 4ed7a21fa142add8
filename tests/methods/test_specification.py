"""Parameters outside their domain are one line, whatever the method."""

import math
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from models import zoo

from tsv_exp import Method, UserError, merge
from tsv_exp.config import conf_dir


@pytest.mark.parametrize(
    ("method", "params", "key"),
    [
        ("dare", {"drop_rate": 1}, "drop_rate"),
        ("dare_ties", {"density": 0}, "density"),
        ("breadcrumbs", {"beta": 0.99, "gamma": 0.9}, "beta"),
        ("magnitude_mask", {"density": 2}, "density"),
        ("iso_cts", {"common_fraction": -0.1}, "common_fraction"),
        ("knots_ties", {"density": math.nan}, "density"),
        ("tsv_m_no_orthogonalization", {"rank_fraction": 0}, "rank_fraction"),
    ],
)
def test_parameters_outside_their_domain(method, params, key):
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=key):
        merge(base, finetuned, method, **params)


@pytest.mark.parametrize("key", ["_target_", "prepare", "others"])
@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.run", "builtins.eval", "shutil.rmtree", "torch.os.system", "torch:os.system"]
)
def test_what_hydra_blocks_in_other_groups_is_no_method(key: str, path: str) -> None:
    config = {"name": "mine", "_target_": "statistics.fmean", "layers": "matrices"} | {key: path}
    with pytest.raises(UserError, match=r"method mine: .* cannot be a method: .*blocklisted"):
        Method.from_config(config)


def test_functions_of_any_other_module_are_methods() -> None:
    assert Method.from_config({"name": "mine", "_target_": "torch.mean"}).function is torch.mean


def takes_alpha(deltas, alpha=1.0):
    return alpha * deltas.sum(0)


def test_a_parameter_with_the_name_of_a_key_is_refused(monkeypatch):
    module = type(sys)("own_methods")
    module.takes_alpha = takes_alpha
    monkeypatch.setitem(sys.modules, "own_methods", module)
    with pytest.raises(UserError, match="its function has a parameter 'alpha'"):
        Method.from_config({"name": "mine", "_target_": "own_methods.takes_alpha", "alpha": {"stop": 2.0}})


@pytest.mark.parametrize("policy", ["grid", "search", "fixed"])
def test_a_method_that_says_nothing_of_alpha_has_the_same_default_everywhere(policy, tmp_path):
    folder = tmp_path / "method"
    folder.mkdir()
    (folder / "plain.yaml").write_text("name: plain\n_target_: tsv_exp.methods.weight_average\n")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [f"hydra.searchpath=[file://{tmp_path}]", "method=plain", f"alpha={policy}"])
    expected = Method.from_config(cfg.method).alpha
    found = {key: cfg.alpha[key] for key in ("stop", "steps", "value") if key in cfg.alpha}
    known = {"stop": expected.stop, "steps": expected.steps, "value": expected.default}
    assert found == {key: known[key] for key in found}
