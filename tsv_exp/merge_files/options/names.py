"""The names of tsv-merge's options, by the kind of their value, and the values to choose from."""

from collections.abc import Mapping, Sequence

from tsv_exp.config import SVD

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
