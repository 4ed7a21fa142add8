"""Output heads that a base ties to its embedding, and that an adapter does not change with it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_object, values_of

_WITH_HEAD = re.compile(r".*(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForMaskedLM)")


def check_head(path: Path, base: Mapping[str, Tensor], changed: Iterable[str]) -> None:
    """Check that an adapter does not change an embedding to which its base ties the output head.

    PEFT changes the embedding alone, and the head stays that of the base. The merged model would change both.

    Args:
        path: the adapter's folder.
        base: the weights that it changes; the config.json beside them says whether they are tied.
        changed: names of the base's weights that it changes.

    Raises:
        UserError: it does.
    """
    name = _tied(base)
    if name is not None and name in changed:
        raise UserError(
            f"{path}: PEFT changes the embedding {name!r} and not the output head that the base ties to it; give an "
            f"untied base (docs/checkpoints.md), or \"ignore=['{name}']\" leaves the embedding out"
        )


def _tied(base: Mapping[str, Tensor]) -> str | None:
    """The embedding of a base with an output head, if it is the only matrix with a row for each token."""
    try:
        config = read_object(Path(getattr(base, "path", None) or "").parent / "config.json")
    except (OSError, ValueError):
        return None
    kinds = config.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    if not _WITH_HEAD.fullmatch(kind) or False in values_of(config, "tie_word_embeddings"):
        return None
    sizes = values_of(config, "vocab_size")
    found = [name for name, weight in base.items() if weight.dim() == 2 and len(weight) in sizes]
    return found[0] if len(found) == 1 else None
