"""The fine-tuned checkpoints of the embedded benchmark: trained once, then cached."""

from collections.abc import Callable

from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import Weights, cached_weights


def cached(name: str, key: str, make: Callable[[], Weights]) -> Weights:
    """The cached weights for `key`; `name` is a readable prefix of the file name."""
    return cached_weights(cache_dir() / "tiny" / f"{name}-{key[:20]}.safetensors", key, make)
