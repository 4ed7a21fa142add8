"""Parameters outside their domain are one line, whatever the method."""

import math

import pytest
from models import zoo

from tsv_exp import UserError, merge


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
