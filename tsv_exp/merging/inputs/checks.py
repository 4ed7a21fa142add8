"""Checks that fine-tuned models fit their base, before the first layer is merged."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.merging.inputs.names import added_factor
from tsv_exp.merging.inputs.remedies import listed, option
from tsv_exp.merging.layer import ExplicitDeltas, Weights, finite

# Several numbers in one, or powers of two that scale others.
_PACKED = {getattr(torch, name) for name in ("float4_e2m1fn_x2", "float8_e8m0fnu") if hasattr(torch, name)}


def check_models(base: Weights, finetuned: Mapping[str, Weights], names: Sequence[str], keep: Sequence[str]) -> None:
    """Check that every model has the named tensors of the base, in their shapes, and no others.

    Raises:
        UserError: it does not, or a tensor is of a kind that cannot be merged.
    """
    if not finetuned:
        raise UserError("there is no fine-tuned model to merge; give at least one")
    if not any(weight.is_floating_point() for weight in base.values()):
        raise UserError("the base has no floating-point tensor to merge; give a checkpoint that holds weights")
    for name, weight in base.items():
        if not matches(name, keep):
            check_kind(weight, name, f"the base{file_of(base, name)}")
    for task, model in finetuned.items():
        what = f"model {task!r}"
        if not len(model):
            raise UserError(f"{what} holds no tensors; save or fetch it again")
        if missing := [name for name in names if name not in model]:
            _refuse_factors(base, model, what)
            remedy = "it is another architecture"
            if 2 * len(missing) <= len(names):
                remedy = option("keep", missing, [name for name in names if name in model], "takes the base's values")
            raise UserError(
                f"{what}{file_of(model, missing[0])} lacks the tensor {listed(missing)} of the base; {remedy}"
            )
        if isinstance(model, ExplicitDeltas):  # it has checked its own
            continue
        if extra := [name for name in model if name not in base and model[name].is_floating_point()]:
            _refuse_factors(base, model, what)
            remedy = option("ignore", extra, [name for name in model if name in base], "leaves it out")
            raise UserError(
                f"{what}{file_of(model, extra[0])} has a tensor {listed(extra)} that the base lacks; {remedy}"
            )
        _check_tensors(base, model, names, keep, what)


def raise_nonfinite(base: Weights, finetuned: Mapping[str, Weights], name: str) -> None:
    """Raise a UserError that names the first model whose tensor `name` holds NaN or infinite values."""
    if not finite(base[name]):
        raise UserError(f"tensor {name!r} of the base{file_of(base, name)} holds NaN or infinite values; it is damaged")
    for task, model in finetuned.items():
        if not finite(model[name]):
            raise UserError(
                f"tensor {name!r} of model {task!r}{file_of(model, name)} holds NaN or infinite values; leave it out"
            )
    raise UserError(f"the task vectors overflow at tensor {name!r}; convert the weights to float64 first")


def _refuse_factors(base: Weights, model: Weights, what: str) -> None:
    if (factor := added_factor(model, base)) is not None:
        raise UserError(
            f"{what} holds LoRA factors ({factor!r}); merge them into its weights first (PEFT's merge_and_unload)"
        )


def _check_tensors(base: Weights, model: Weights, names: Sequence[str], keep: Sequence[str], what: str) -> None:
    odd = []
    for name in names:
        tensor = model[name]
        check_kind(tensor, name, f"{what}{file_of(model, name)}")
        if tensor.shape != base[name].shape:
            odd.append(name)
        elif not tensor.is_floating_point():
            raise UserError(
                f"tensor {name!r} of {what}{file_of(model, name)} holds integers, the base's does not; "
                "it may be quantized: give the weights in floating point"
            )
    for name, codes in base.items():
        if codes.dim() > 1 and not _number(codes) and name in model and not matches(name, keep):
            other = model[name]
            if not _number(other) and codes.dtype != torch.bool and not torch.equal(codes, other.to(codes.device)):
                remedy = option("keep", [name], [], "takes the base's values")
                raise UserError(
                    f"the integers of tensor {name!r} of {what}{file_of(model, name)} are not the base's; "
                    f"where the model is quantized, dequantize it first; {remedy}"
                )
    if odd:
        remedy = option("keep", odd, [name for name in names if name not in odd], "takes the base's values")
        if any(base[name].dim() > 1 and base[name].shape[1:] == model[name].shape[1:] for name in odd):
            remedy += "; rows of a vocabulary are matched by token with vocabulary=base or union"
        found = f"{tuple(model[odd[0]].shape)} in {what}{file_of(model, odd[0])}"
        raise UserError(
            f"tensor {listed(odd)} has shape {found} and {tuple(base[odd[0]].shape)} in the base; "
            f"they must be the same; {remedy}"
        )


def _number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def check_kind(tensor: Tensor, name: str, where: str) -> None:
    """Raise a UserError for a tensor of a kind that cannot be merged."""
    if tensor.is_complex():
        kind, remedy = "complex", option("keep", [name], [], "takes the base's values")
    elif tensor.is_nested:
        kind, remedy = "nested", "convert it with to_padded_tensor()"
    elif tensor.layout is not torch.strided:
        kind, remedy = "sparse", "convert it with to_dense()"
    elif tensor.is_meta:
        kind, remedy = "without data (on the meta device)", "load the weights first"
    elif tensor.is_quantized or tensor.dtype in _PACKED:
        kind, remedy = "quantized", "dequantize the model first"
    else:
        return
    raise UserError(f"tensor {name!r} of {where} is {kind}; {remedy}")


def file_of(weights: Weights, name: str) -> str:
    """The file of a tensor in parentheses, if it is known."""
    known = getattr(weights, "file_of", None)
    return f" ({known(name)})" if known else ""
