"""Names of nn.MultiheadAttention in PEFT's adapters (open_clip's towers and others).

PEFT wraps the whole module X. The factors of X.in_proj_weight have the name X, those of X.out_proj.weight the name
X.base_layer.out_proj, and both have the rank and alpha of X. PEFT adds the latter twice (0.21 and before;
github.com/huggingface/peft/pull/3774 adds them once).
"""

from collections.abc import Container, Iterable

_IN, _OUT, _OUT_FACTORS = ".in_proj_weight", ".out_proj.weight", ".base_layer.out_proj"
_PARTS = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias", "bias_k", "bias_v"}


def weight_of(module: str, modules: Container[str]) -> str:
    """The weight that a module of an adapter changes; `modules` are all of the adapter's."""
    if f"{module}{_OUT_FACTORS}" in modules:
        return f"{module}{_IN}"
    return f"{target_of(module)}{_OUT}" if added_twice(module) else f"{module}.weight"


def target_of(module: str) -> str:
    """The module of the model that PEFT wraps for a module of an adapter."""
    return module.removesuffix(_OUT_FACTORS)


def added_twice(module: str) -> bool:
    """Whether a module of an adapter holds factors that PEFT adds twice."""
    return module.endswith(_OUT_FACTORS)


def attention_weights(names: Iterable[str]) -> dict[str, str | None]:
    """Weight -> module in an adapter, for every nn.MultiheadAttention in a model; None for its out_proj."""
    parts: dict[str, set[str]] = {}
    for name in names:
        parent = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[0]
        parts.setdefault(parent, set()).add(name[len(parent) + 1 :])
    found: dict[str, str | None] = {}
    for module, own in parts.items():
        if {"in_proj_weight", "out_proj.weight"} <= own <= _PARTS:
            found |= {f"{module}{_IN}": module, f"{module}{_OUT}": None}
    return found
