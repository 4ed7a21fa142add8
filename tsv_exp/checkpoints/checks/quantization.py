"""Quantized checkpoints: they contain codes and scales, which cannot be merged as weights."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_object, values_of

# Tensors next to codes: of bitsandbytes (absmax, SCB, quant_map), GPTQ and AWQ (qweight, qzeros), fp8 with scales,
# compressed-tensors (weight_packed), MXFP4 (_blocks) and HQQ (W_q). The scales of 8-bit floats have many names
# (weight_scale_inv, scale_weight, gate_up_proj_scale, _scale) and are found beside their codes.
_MARKS = re.compile(
    r"(.*[._])?(qweight|qzeros|absmax|SCB|quant_map|weight_packed|weight_scale(_inv)?|blocks|W_q)|.*\.quant_state\..*"
)


def refuse_configured(folder: Path | None) -> None:
    """Check that a folder's config.json names no quantization, before its weights are read: some libraries pickle them.

    Raises:
        UserError: it does; the message describes how to get weights.
    """
    if (method := _configured(folder)) is not None:
        raise _quantized(folder, f"{method} in its config.json")


def refuse_codes(weights: Reader, folder: Path | None) -> None:
    """Check that the tensors of a checkpoint are not codes and scales.

    Raises:
        UserError: they are; the message describes how to get weights.
    """
    if (mark := _mark(weights)) is not None:
        raise _quantized(folder or weights.path, f"its tensor {mark!r}")


def _quantized(place: Path | None, reason: str) -> UserError:
    return UserError(
        f"{place} is quantized ({reason}), and codes cannot be merged; give the model that it was "
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
    return str(kind or "quantization_config")


def _mark(weights: Reader) -> str | None:
    """A tensor that only a quantized checkpoint has, or None."""
    marks = [name for name in weights if _MARKS.fullmatch(name)]
    if marks and any(_is_code(weights, name) for name in weights):
        return marks[0]
    return next(_scales_of_floats(weights), None)


def _scales_of_floats(weights: Reader) -> Iterator[str]:
    """The scales of matrices of 8-bit floats: in the same module, and named after the matrix or just scale."""
    scales = defaultdict(list)
    for name in weights:
        if "scale" in (parts := name.rpartition("."))[2]:
            scales[parts[0]].append(name)
    for name in weights:
        module, _, own = name.rpartition(".")
        for scale in scales.get(module, ()):
            leaf = scale.rpartition(".")[2]
            is_its = name != scale and (own in leaf or leaf.strip("_") in ("scale", "scales"))
            if is_its and weights[name].is_floating_point() and _is_code(weights, name):
                yield scale


def _is_code(weights: Reader, name: str) -> bool:
    """Whether a tensor may contain codes: a matrix of integers or 8-bit floats."""
    tensor = weights[name]
    return tensor.dim() >= 2 and (not tensor.is_floating_point() or tensor.dtype.itemsize == 1)
