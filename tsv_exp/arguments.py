"""Checks values of the configuration against the signatures of the functions and classes that receive them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tsv_exp.errors import UserError, did_you_mean

# keys of a method's YAML that are no arguments of its function
STRUCTURE = frozenset({"_target_", "name", "layers", "others", "prepare", "across", "features", "alpha", "tune"})
_PLAIN: Mapping[Any, type] = {float: Real, int: Integral, str: str, bool: bool, NoneType: NoneType}
_ONE = {float: "a number", int: "a whole number", str: "text", bool: "true or false", NoneType: "null"}
_MANY = {float: "numbers", int: "whole numbers", str: "texts"}
_OF_HYDRA = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")


def check_nodes(where: str, node: Any) -> None:
    """Check every `_target_` below a node of the configuration against its arguments.

    Args:
        where: the node's key, for error messages.
        node: plain containers, with interpolations resolved.

    Raises:
        UserError: an argument is unknown, missing, or not of the annotated type.
    """
    if isinstance(node, list):
        for item in node:
            check_nodes(where, item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        check_nodes(f"{where}.{key}", value)
    if "_target_" not in node:
        return
    try:
        target = resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        remedy = "give package.module.Class, in a folder on PYTHONPATH"
        raise UserError(f"{where}._target_={node['_target_']}: it cannot be imported ({error}); {remedy}") from error
    check_arguments(f"{where}.", target, {key: value for key, value in node.items() if key not in _OF_HYDRA})


def check_arguments(where: str, function: Callable[..., Any], arguments: Mapping[str, Any], first: int = 0) -> None:
    """Check that a function or class takes these arguments, by name and by type.

    Args:
        where: prefix of the argument's name in error messages.
        function: the function or class.
        arguments: plain values; a mapping with a `_target_` is a value of that type.
        first: number of positional arguments before them.

    Raises:
        UserError: as `check_nodes`.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in function without a signature
        return
    try:
        signature.bind(*[None] * first, **arguments)
    except TypeError as error:
        place = f"{function.__module__}.{function.__qualname__}"
        known = list(signature.parameters)[first:]
        unknown = next((key for key in arguments if key not in known), None)
        reason = str(error)
        if unknown is not None:
            reason = f"it has no {unknown!r}; {did_you_mean(unknown, known)}it has: {', '.join(known) or 'none'}"
        raise UserError(f"{where.rstrip(' .:')}: its keys do not fit {place}: {reason}") from error
    check_types(where, function, arguments)


def check_types(where: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments against the annotations of a function or class.

    Raises:
        UserError: one is not of the annotated type.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return
    for name, value in arguments.items():
        kind = parameters[name].annotation if name in parameters else inspect.Parameter.empty
        if kind is inspect.Parameter.empty or (isinstance(value, Mapping) and "_target_" in value):
            continue
        if not _fits(value, kind):
            raise UserError(f"{where}{name}={value!r} does not fit; give {_expected(kind)}")


def _expected(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, inner))
    if origin is Sequence and inner[0] in _MANY:
        return f"a list of {_MANY[inner[0]]}"
    return _ONE.get(kind) or inspect.formatannotation(kind).replace("collections.abc.", "")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of an annotated type; other types are not checked."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin is Sequence:
        plain = isinstance(value, Sequence) and not isinstance(value, str)
        return plain and all(_fits(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool):  # bool is a subclass of int
        return kind is bool or kind not in _PLAIN
    return isinstance(value, _PLAIN.get(kind, object))
