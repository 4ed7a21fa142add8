"""Quantized checkpoints: they contain codes and scales, which cannot be merged as weights."""

import re
from pathlib import Path

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_object, values_of

# Tensors next to codes: of bitsandbytes (absmax, SCB, quant_map), GPTQ and AWQ (qweight, qzeros), fp8 with scales,
# compressed-tensors (weight_packed), MXFP4 (_blocks) and HQQ (W_q).
_MARKS = re.compile(
    r"(.*[._])?(qweight|qzeros|absmax|SCB|quant_map|weight_packed|weight_scale(_inv)?|blocks|W_q)|.*\.quant_state\..*"
)


def refuse_quantized(weights: Reader, folder: Path | None) -> None:
    """Check that a checkpoint is not quantized, by its folder's config.json and by its tensors.

    Raises:
        UserError: it is; the message describes how to get weights.
    """
    method = _configured(folder)
    if method is None:
        marks = [name for name in weights if _MARKS.fullmatch(name)]
        if not marks or not any(_is_code(weights, name) for name in weights):
            return
        method = f"its tensor {marks[0]!r}"
    raise UserError(
        f"{folder or weights.path} is quantized ({method}), and codes cannot be merged; give the model that it was "
        "made of, or load it with transformers, call model.dequantize() and save_pretrained(), and give that"
    )


def _configured(folder: Path | None) -> str | None:
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        config = read_object(folder / "config.json")
    except (OSError, ValueError):
        return None  # damaged, or of another library: check the tensors instead
    found = [value for value in values_of(config, "quantization_config") if value is not None]
    if not found:
        return None
    kind = found[0].get("quant_method") if isinstance(found[0], dict) else None
    return f"{kind or 'quantization_config'} in its config.json"


def _is_code(weights: Reader, name: str) -> bool:
    """Whether a tensor may contain codes: a matrix of integers or 8-bit floats."""
    tensor = weights[name]
    return tensor.dim() >= 2 and (not tensor.is_floating_point() or tensor.dtype.itemsize == 1)
