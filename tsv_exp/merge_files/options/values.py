"""The options of tsv-merge by the kind of their value, the values to choose from, and checks of values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tsv_exp.config import SVD
from tsv_exp.errors import UserError

TEXTS = (  # taken as text, not as YAML
    "base",
    "out",
    "method",
    "router",
    "task",
    "dtype",
    "svd",
    "device",
    "form",
    "push",
    "vocabulary",
    "tokenizer",
)
SWITCHES = ("wait",)
NUMBERS = ("alpha", "shard_mb", "rank")
PATTERNS = ("exclude", "stacks", "keep", "ignore")
MAPPINGS = ("models", "layers", "weights")
ALL = (*TEXTS, *SWITCHES, *NUMBERS, *PATTERNS, *MAPPINGS)

CHOICES: Mapping[str, Sequence[str]] = {
    "dtype": ("float32", "bfloat16", "float16", "float64"),
    "form": ("model", "lora"),
    "router": ("none", "likelihood", "mass"),
    "svd": SVD,
    "vocabulary": ("base", "union"),
    "wait": ("true", "false"),
}

_RULE = "give a mapping of method, alpha, rank and parameters, as in {'*.mlp.*': {method: tsv_m, rank_fraction: 0.1}}"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_layers(given: Any) -> dict[str, dict[str, Any]]:
    """Rules by pattern of names.

    Raises:
        UserError: they do not have that form, or alpha or rank is not a number.
    """
    rules = {} if given is None else given
    if not isinstance(rules, dict):
        raise UserError(f"layers={given}: {_RULE}")
    for pattern, rule in rules.items():
        if not isinstance(pattern, str) or not isinstance(rule, dict) or not rule:
            raise UserError(f"layers: {pattern}: {_RULE}")
        if rule.get("alpha") is not None and not is_number(rule["alpha"]):
            raise UserError(f"layers: {pattern}: alpha={rule['alpha']}: give a finite number")
        rank = rule.get("rank", 1)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise UserError(f"layers: {pattern}: rank={rank}: give a whole number above 0")
    return rules


def check_weights(given: Any) -> dict[str, float]:
    """Weights of some models by name.

    Raises:
        UserError: they do not have that form.
    """
    weights = {} if given is None else given
    if not isinstance(weights, dict) or not all(map(is_number, weights.values())):
        raise UserError(f"weights={given}: give a finite number by the name of a model, as in {{math: 0.3, code: 0.7}}")
    return {str(task): float(weight) for task, weight in weights.items()}
