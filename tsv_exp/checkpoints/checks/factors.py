"""Refuses files of LoRA factors that are not adapters in PEFT's format."""

from collections.abc import Iterable

from tsv_exp.checkpoints.adapters.lora_config import FILE
from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.names import added_factor


def refuse_factors(weights: Reader, base: Iterable[str]) -> None:
    """Check that a model has no LoRA factors if its base has none.

    Raises:
        UserError: it has; the message names the remedy.
    """
    if (found := added_factor(weights, base)) is not None:
        raise UserError(
            f"{weights.path} holds LoRA factors ({found!r}) and has no {FILE} beside it; fetch that file too, or "
            "merge the factors into their model (PEFT's merge_and_unload, diffusers' fuse_lora) and give that"
        )
