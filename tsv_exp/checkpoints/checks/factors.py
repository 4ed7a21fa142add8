"""Refuses files of LoRA factors that are not adapters in PEFT's format."""

import re
from collections.abc import Iterable

from tsv_exp.checkpoints.adapters.lora_config import FILE
from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError

# PEFT's lora_A, lora_B; the lora.up, lora.down of diffusers; the lora_up, lora_down of kohya; LyCORIS
_FACTOR = re.compile(r"(.*[._])?(lora[._](embedding_)?(A|B|up|down)|hada_w[12]|lokr_w[12])([._].*)?")


def refuse_factors(weights: Reader, base: Iterable[str]) -> None:
    """Check that a model has no LoRA factors if its base has none.

    Raises:
        UserError: it has; the message names the remedy.
    """
    found = next((name for name in weights if _FACTOR.fullmatch(name)), None)
    if found is not None and not any(_FACTOR.fullmatch(name) for name in base):
        raise UserError(
            f"{weights.path} holds LoRA factors ({found!r}) and has no {FILE} beside it; fetch that file too, or "
            "merge the factors into their model (PEFT's merge_and_unload, diffusers' fuse_lora) and give that"
        )
