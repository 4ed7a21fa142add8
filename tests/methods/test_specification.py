"""Parameters outside their domain are one line, whatever the method."""

import math

import pytest
import torch
from models import zoo

from tsv_exp import Method, UserError, merge


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
