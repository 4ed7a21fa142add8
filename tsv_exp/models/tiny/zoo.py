"""The fine-tuned checkpoints of the embedded benchmark: trained once, kept in the user's cache."""

from collections.abc import Callable

from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import Weights, cached_weights


def cached(name: str, key: str, make: Callable[[], Weights]) -> Weights:
    """The weights that `key` stands for; `name` is for people and begins the file's name."""
    return cached_weights(cache_dir() / "tiny" / f"{name}-{key[:20]}.safetensors", key, make)
