"""The functions that a method's YAML names: import, permission, parameters."""

import inspect
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any

from tsv_exp.errors import UserError

Function = Callable[..., Any]


def function_of(method: str, path: Any) -> Function:
    """The function that a configuration of a method names.

    Raises:
        UserError: it cannot be imported, or Hydra's rules do not let a configuration name it.
    """
    try:
        function = resolve_name(str(path))
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "give package.module.function, in a folder on PYTHONPATH"
        raise UserError(f"method {method}: cannot import {path!r} ({error}); {remedy}") from error
    if not str(getattr(function, "__module__", "")).startswith("tsv_exp.methods."):
        _check_permitted(method, str(path))
    return function


def accepts(function: Function, parameter: str) -> bool:
    """Whether a function has a parameter of this name."""
    return parameter in parameters_of(function)


def required(function: Function, parameter: str) -> bool:
    """Whether a function has a parameter of this name without a default."""
    if not accepts(function, parameter):
        return False
    return inspect.signature(function).parameters[parameter].default is inspect.Parameter.empty


@cache
def parameters_of(function: Function) -> tuple[str, ...]:
    """The names of a function's parameters, in order."""
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # a built-in function without a signature
        return ()


def _check_permitted(method: str, path: str) -> None:
    """Check that Hydra's rules permit a function in a configuration: os.system and the like are refused."""
    from hydra.errors import InstantiationException  # half a second, which our own methods need not wait for
    from hydra.utils import instantiate

    try:
        instantiate({"_target_": path.replace(":", "."), "_partial_": True})
    except InstantiationException as error:
        raise UserError(f"method {method}: {path} cannot be a method: {' '.join(str(error).split())}") from error
