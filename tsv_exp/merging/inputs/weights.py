"""Weights as people hold them: state dicts, modules, arrays, and other values beside the tensors."""

from collections.abc import Mapping
from numbers import Number
from warnings import catch_warnings, filterwarnings

import numpy as np
import torch
from torch import Tensor, nn

from tsv_exp.errors import UserError
from tsv_exp.merging.layer import Weights

_PLAIN = (Number, str, bytes, np.generic, type(None))  # an epoch, a version, the empty state of a module


def as_weights(given: object, what: str) -> Weights:
    """The tensors of a state dict, a module or any mapping; a lazy reader stays as it is.

    Arrays become tensors that share their memory. Values that are neither, such as `epoch: 3` or the extra state of a
    module, take no part.

    Raises:
        UserError: it is none of these, holds no tensor, or holds something that may contain tensors.
    """
    if isinstance(given, nn.Module):
        given = given.state_dict()
    if not isinstance(given, Mapping):
        raise UserError(f"{what} is a {type(given).__name__}; give a state dict or a module")
    if not isinstance(given, dict):
        return given
    if given and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in given.items()):
        return given
    weights = {}
    for name, value in given.items():
        if isinstance(value, np.ndarray):
            weights[str(name)] = _from_array(value, f"{what}: {name!r}")
        elif isinstance(value, Tensor):
            weights[str(name)] = value
        elif not isinstance(value, _PLAIN) and not str(name).endswith("_extra_state"):
            raise UserError(f"{what}: {name!r} is a {type(value).__name__}, not a tensor; give the state dict alone")
    if not weights:
        raise UserError(f"{what} holds no tensor; give a state dict (names to tensors)")
    return weights


def as_models(given: object) -> Mapping[str, object]:
    """The models by task; raises UserError if they are no mapping."""
    if not isinstance(given, Mapping):
        raise UserError(f"the models are a {type(given).__name__}; give a mapping of tasks to models")
    return given


def _from_array(array: np.ndarray, what: str) -> Tensor:
    if not array.dtype.isnative or min(array.strides, default=0) < 0:  # which torch does not hold
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        with catch_warnings():
            filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written into it
            return torch.as_tensor(array)
    except TypeError as error:
        raise UserError(f"{what} is an array of {array.dtype}; convert it to float32") from error
