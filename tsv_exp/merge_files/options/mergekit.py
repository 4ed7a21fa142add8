"""Translates mergekit's YAML for methods with the same meaning here; anything else is an error that names the key.

Its task vectors, weights and densities are those of mergekit 0.1: Σ_i w_i τ_i (divided by Σ_i w_i where it normalizes).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.paths import named

_KEYS = {"merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "name"}
_KEYS |= {"tokenizer_source", "tokenizer"}
_SHARED = {"normalize", "int8_mask", "rescale", "lambda"}  # keys of the whole merge; int8_mask does not affect results


class _Merge:
    """The content of a file, with access to its values by name."""

    def __init__(self, given: Mapping[str, Any], texts: Mapping[str, Any], where: str) -> None:
        self.where, self.method = where, str(given["merge_method"])
        if odd := sorted(key for key in set(given) - _KEYS if given[key] is not None):
            raise self.refused(odd[0])
        for key, base in (("tokenizer_source", "base"), ("tokenizer", {"source": "base"})):
            if given.get(key) not in (None, base):
                raise self.refused(f"{key}: {given[key]}")
        self.shared = self._parameters(given)
        self.dtype = given.get("out_dtype") or given.get("dtype")
        self.base = None if given.get("base_model") is None else self._path(texts["base_model"])
        self.own: list[tuple[str, dict[str, Any]]] = []
        for entry, text in zip(given.get("models") or [], texts.get("models") or [], strict=True):
            if not isinstance(entry, dict) or not set(entry) <= {"model", "parameters"} or "model" not in entry:
                raise UserError(f"{where}: models: give each as 'model: PATH' with its parameters")
            self.own.append((self._path(text["model"]), self._parameters(entry)))
        if not self.own:
            raise UserError(f"{where}: models: the list is empty")

    def _parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found = given.get("parameters") or {}
        if not isinstance(found, dict):
            raise self.refused(f"parameters: {found}")
        return dict(found)

    def _path(self, text: Any) -> str:
        if not isinstance(text, str) or "+" in text:
            raise self.refused(f"the model {text}")
        return text

    def refused(self, what: str, reason: str = "") -> UserError:
        """The error for something without a counterpart here."""
        because = f" ({reason})" if reason else ""
        return UserError(f"{self.where}: {what} of mergekit's {self.method} has no counterpart in tsv-merge{because}")

    def flag(self, name: str, default: bool) -> bool:
        """A boolean parameter of the whole merge."""
        value = self.shared.get(name, default)
        if not isinstance(value, bool):
            raise self.refused(f"{name}: {value}")
        return value

    def number(self, name: str, default: float | None = None, own: Mapping[str, Any] | None = None) -> float:
        """A parameter of the whole merge, or of one model."""
        value = (own or {}).get(name, self.shared.get(name, default))
        if value is None:
            raise UserError(f"{self.where}: {name} is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refused(f"{name}: {value}", "one number per model is")
        return float(value)

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        """The models except the base, which has no task vector."""
        return [(path, own) for path, own in self.own if path != self.base]

    def common(self, name: str, default: float) -> float:
        """A parameter that must be the same number for all models."""
        values = {self.number(name, default, own) for _, own in self.models()}
        if len(values) > 1:
            raise self.refused(f"a different {name} per model", "one for all models is")
        return values.pop() if values else default

    def known(self, *names: str) -> None:
        """Check that no other parameters are given."""
        for parameters in (self.shared, *(own for _, own in self.own)):
            if odd := sorted(set(parameters) - _SHARED - set(names)):
                raise self.refused(odd[0])

    def weights(self, normalize: bool) -> list[float]:
        """The factors of the task vectors of `models`."""
        values = [self.number("weight", None, own) for _, own in self.models()]
        total = sum(values)
        return [value / total for value in values] if normalize and abs(total) > 1e-8 else values

    def equal_weights(self, normalize: bool) -> None:
        """Check that weights are equal and normalized, so that entries with agreeing signs are averaged."""
        if not normalize:
            raise self.refused("normalize: false", "the mean of the entries that agree is")
        if len({self.number("weight", None, own) for _, own in self.models()}) > 1:
            raise self.refused("a different weight per model", "equal ones are")


def _linear(merge: _Merge) -> dict[str, Any]:
    merge.known("weight")
    if "lambda" in merge.shared:
        raise merge.refused("lambda")
    everyone = [merge.number("weight", None, own) for _, own in merge.own]
    total = sum(everyone)
    if abs(total - 1) > 1e-6 and not merge.flag("normalize", True):
        raise merge.refused("normalize: false", "weights that sum to 1 are")
    if not total:
        raise merge.refused("weights that sum to 0")
    # Σ w_i θ_i = θ_0 + Σ w_i (θ_i − θ_0) for any θ_0 where the weights sum to 1
    merge.base = merge.base or merge.own[0][0]
    kept = [merge.number("weight", None, own) / total for _, own in merge.models()]
    return {"method": "task_arithmetic", "alpha": 1.0, "weights": kept}


def _task_arithmetic(merge: _Merge) -> dict[str, Any]:
    merge.known("weight")
    return {"method": "task_arithmetic", "weights": merge.weights(merge.flag("normalize", False))}


def _ties(merge: _Merge) -> dict[str, Any]:
    merge.known("weight", "density")
    if merge.common("density", 1.0) < 1:
        raise merge.refused(
            "a density below 1", "it trims every tensor by itself, `ties` whole task vectors: method=ties"
        )
    merge.equal_weights(merge.flag("normalize", True))
    return {"method": "ties", "density": 1.0}


def _drop_rate(merge: _Merge) -> float:
    if not merge.flag("rescale", True):
        raise merge.refused("rescale: false", "DARE divides by the density")
    return 1 - merge.common("density", 1.0)


def _dare_linear(merge: _Merge) -> dict[str, Any]:
    merge.known("weight", "density")
    rate = _drop_rate(merge)
    return {"method": "dare", "drop_rate": rate, "weights": merge.weights(merge.flag("normalize", False))}


def _dare_ties(merge: _Merge) -> dict[str, Any]:
    merge.known("weight", "density")
    merge.equal_weights(merge.flag("normalize", False))
    return {"method": "dare_ties", "drop_rate": _drop_rate(merge), "density": 1.0}


def _breadcrumbs(merge: _Merge) -> dict[str, Any]:
    merge.known("weight", "density", "gamma")
    if merge.flag("rescale", False):
        raise merge.refused("rescale: true")
    density, largest = merge.common("density", 1.0), merge.common("gamma", 0.01)
    weights = merge.weights(merge.flag("normalize", False))
    if density >= 1:
        return {"method": "task_arithmetic", "weights": weights}
    largest = min(largest, 1 - density)
    return {"method": "breadcrumbs", "beta": 1 - density - largest, "gamma": 1 - largest, "weights": weights}


_METHODS: dict[str, Callable[[_Merge], dict[str, Any]]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _dare_linear,
    "dare_ties": _dare_ties,
    "breadcrumbs": _breadcrumbs,
}


def translate(given: Mapping[str, Any], texts: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of tsv-merge with the same meaning as a mergekit file.

    Args:
        given: the content of the file.
        texts: the same content with every value as text.
        where: its name, for error messages.

    Raises:
        UserError: the file contains something that tsv-merge does not support.
    """
    merge = _Merge(given, texts, where)
    if merge.method not in _METHODS:
        known = ", ".join(_METHODS)
        raise UserError(f"{where}: merge_method: {merge.method} has no counterpart in tsv-merge; understood: {known}")
    found = _METHODS[merge.method](merge)
    if merge.base is None:
        raise UserError(f"{where}: base_model is missing")
    models = merge.models()
    if not models:
        raise UserError(f"{where}: there is no model besides the base")
    paths = named([path for path, _ in models])
    weights = found.pop("weights", None)
    if weights is not None:
        found["weights"] = dict(zip(paths, weights, strict=True))
    alpha = merge.number("lambda", 1.0)
    return found | {"base": merge.base, "models": paths, "alpha": alpha, "dtype": merge.dtype}
