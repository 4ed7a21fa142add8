"""The fine-tuned checkpoints of the embedded benchmark: trained once, kept in the user's cache."""

from collections.abc import Callable

from tsv_exp.files import cache_dir
from tsv_exp.kept import Weights, kept


def cached(name: str, key: str, make: Callable[[], Weights]) -> Weights:
    """The weights that `key` stands for; `name` is for people and begins the file's name (see tsv_exp.kept)."""
    return kept(cache_dir() / "tiny" / f"{name}-{key[:20]}.safetensors", key, make)
