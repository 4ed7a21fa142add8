"""The merging methods: pure functions on the deltas (T, *shape) of one layer over T tasks, and their specification.

A function returns the merged task vector before α; conf/method/<name>.yaml names the function and its parameters.
Nothing here knows names, files, devices or the choice of α.
"""

from tsv_exp.methods.directional import dc_merge
from tsv_exp.methods.entrywise import (
    breadcrumbs,
    dare,
    dare_ties,
    dare_ties_statistics,
    individual,
    task_arithmetic,
    weight_average,
    zero_shot,
)
from tsv_exp.methods.isotropic import iso_c, iso_cts
from tsv_exp.methods.knots import knots_ties, knots_ties_statistics
from tsv_exp.methods.masks import consensus_ta, emr, emr_rescalers, magnitude_mask, magnitude_thresholds, tall_mask
from tsv_exp.methods.regression.essential import esm, scale_layers
from tsv_exp.methods.regression.iso_reg import iso_reg
from tsv_exp.methods.regression.regmean import regmean
from tsv_exp.methods.regression.task_matrices import ace, swudi, wudi, wudi_closed
from tsv_exp.methods.regression.white_reg import white_reg
from tsv_exp.methods.sign_election import ties, ties_statistics
from tsv_exp.methods.singular_vectors import cart, truncated_sum, tsv_c, tsv_m, tsv_m_eigen
from tsv_exp.methods.specification.method import Method

__all__ = [
    "Method", "ace", "breadcrumbs", "cart", "consensus_ta", "dare", "dare_ties", "dare_ties_statistics",
    "dc_merge", "emr", "emr_rescalers", "esm", "individual", "iso_c", "iso_cts", "iso_reg", "knots_ties",
    "knots_ties_statistics", "magnitude_mask", "magnitude_thresholds", "regmean", "scale_layers", "swudi", "tall_mask",
    "task_arithmetic", "ties", "ties_statistics", "truncated_sum", "tsv_c", "tsv_m", "tsv_m_eigen",
    "weight_average", "white_reg", "wudi", "wudi_closed", "zero_shot",
]  # fmt: skip
