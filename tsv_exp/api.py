"""The Python interface: merge plain state dicts by the name of a method."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tsv_exp.config import Engine
from tsv_exp.errors import UserError
from tsv_exp.merging.engine import Merged, merge_layers
from tsv_exp.merging.layer import Moments, Weights
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.devices import usable
from tsv_exp.runtime.messages.counts import some


def merge(
    base: Weights | nn.Module,
    finetuned: Mapping[str, Weights | nn.Module],
    method: str | Method = "tsv_m",
    *,
    engine: Engine | None = None,
    device: torch.device | str | None = None,
    moments: Mapping[str, Tensor] | Moments | None = None,
    **params: object,
) -> Merged:
    """Merge fine-tuned models of one base. Holds one layer of T models besides the result; inputs are not changed.

    Args:
        base: the pre-trained weights, name -> tensor of any shape; a state dict (its values may be arrays) or a
            module. Integer buffers are not merged.
        finetuned: the fine-tuned weights by task. Prefixes of wrappers and task heads may differ from the base's, and
            tied weights may be missing.
        method: a name in conf/method, or a Method.
        engine: settings of decompositions, and of the 2-D layers that are not matrices.
        device: where to compute; None: the base's device. The result is on the base's device.
        moments: for methods that need inputs, such as regmean: layer -> (T, n, n), the mean of x xᵀ over inputs x of
            each task's layer. Matrices without moments are averaged, or merged by tsv_m (esm).
        params: override parameters of the method's YAML, such as rank_fraction, density, lambda_.

    Raises:
        UserError: unknown method, parameter or device, a parameter outside its domain, models that do not fit the base.
    """
    if "alpha" in params:
        raise UserError("alpha scales the finished merge; give it to tsv_exp.apply")
    engine = engine or Engine()
    chosen = (method if isinstance(method, Method) else Method.load(method)).with_params(**params)
    known = moments.get if isinstance(moments, Mapping) else moments
    place = None if device is None else usable(device)
    stream = TaskVectors.of(base, finetuned, engine, place)
    if isinstance(moments, Mapping) and (unknown := sorted(moments.keys() - set(stream.names))):
        raise UserError(f"moments: {some(unknown)}: the models have no such layer; give names of the base's weights")
    return merge_layers(stream, chosen, engine, known)
