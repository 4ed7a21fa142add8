"""The specification of a merging method: the content of its YAML in conf/method."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from tsv_exp.arguments import check_arguments, check_types
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation, join_blocks, stack
from tsv_exp.merging.check_result import check_result
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.files import method_files
from tsv_exp.methods.specification.scaling import Alpha, Tune

Function = Callable[..., Any]

log = logging.getLogger(__name__)

RESERVED = {"name", "layers", "others", "prepare", "alpha", "tune"}  # keys of a method's YAML that are no parameters


@dataclass(frozen=True)
class Method:
    """Everything that differs between methods; no other code depends on which method it runs.

    Args:
        name: of its YAML.
        function: deltas (T, *shape), **params -> the merged layer; with `prepare` it takes what that returns instead.
        prepare: (stream, **params) -> keyword arguments of the function, after passes over all layers.
        others: the function of layers that are not matrices; `function` itself if the YAML has `layers: all`.
        alpha: the scaling.
        tune: a parameter chosen per task.
        params: of `prepare` where there is one, else of the function.
    """

    name: str
    function: Function
    others: Function
    prepare: Function | None = None
    alpha: Alpha = field(default_factory=Alpha)
    tune: Tune | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, search: Sequence[Path] = ()) -> "Method":
        """The method of method/<name>.yaml in the first of the folders `search` that has one, else in conf.

        Raises:
            UserError: unknown name.
        """
        known = method_files(search)
        if name not in known:
            raise UserError(f"unknown method {name!r}; choose from: {', '.join(sorted(known))}")
        return cls.from_config(OmegaConf.to_container(OmegaConf.load(known[name]), resolve=True))

    @classmethod
    def from_config(cls, config: Any) -> "Method":
        """The method that a mapping with the keys of conf/method describes; keys of its own are its parameters.

        Raises:
            UserError: a key is missing or has a value that does not fit, or a function cannot be imported or does not
                take the parameters.
        """
        plain: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
        keys = dict(plain)
        name = str(keys.pop("name", "without a name"))
        if "_target_" not in keys:
            raise UserError(f"method {name}: its YAML has no _target_; name its function there")
        function = _function(name, keys.pop("_target_"))
        prepare = keys.pop("prepare", None)
        scope = keys.pop("layers", "all")
        if scope not in ("all", "matrices"):
            raise UserError(f"method {name}: layers={scope}; choose from: all, matrices")
        others = keys.pop("others", "tsv_exp.methods.entrywise.weight_average")
        alpha, tune = keys.pop("alpha", None) or {}, keys.pop("tune", None)
        try:
            tuned = tune and Tune(tune["parameter"], tuple(tune["values"]), _function(name, tune["function"]))
            scaling = Alpha(**alpha)
        except (TypeError, KeyError) as error:
            raise UserError(
                f"method {name}: alpha or tune in its YAML is not as conf/method documents it: {error}"
            ) from error
        first = prepare and _function(name, prepare)
        taker = first or function
        if taken := sorted(RESERVED & _parameters(taker)):
            raise UserError(
                f"method {name}: its function has a parameter {taken[0]!r}, which is a key of every method's YAML "
                "with a meaning of its own; name the parameter otherwise"
            )
        check_arguments(f"method {name}: ", taker, keys | ({"algebra": None} if _accepts(taker, "algebra") else {}), 1)
        return cls(
            name=name,
            function=function,
            others=function if scope == "all" else _function(name, others),
            prepare=first,
            alpha=scaling,
            tune=tuned,
            params=keys,
        )

    def with_params(self, **params: Any) -> "Method":
        """The method with other values of its parameters.

        Raises:
            UserError: one of them is not a key of its YAML, or not of the type that the function takes.
        """
        for key in params:
            if key not in self.params:
                known = ", ".join(self.params) or "none"
                raise UserError(f"method {self.name} has no parameter {key!r}; it has: {known}")
        check_types(f"method {self.name}: ", self.prepare or self.function, params)
        return replace(self, params={**self.params, **params})

    def tuner(self, value: float) -> "Method":
        """The method that scores one value of the tuned parameter."""
        assert self.tune is not None
        return replace(
            self,
            function=self.tune.function,
            others=self.tune.function,
            prepare=None,
            tune=None,
            params={self.tune.parameter: value},
        )

    def tuned(self, values: Sequence[float]) -> "Method":
        """The method with the tuned parameter that each task chose."""
        assert self.tune is not None
        return self.with_params(**{self.tune.parameter: list(values)})

    def bind(self, stream: TaskVectors, algebra: Algebra) -> Callable[[Layer], Representation]:
        """The function of one layer, with parameters and global statistics filled in; it decomposes by `algebra`."""
        arguments = self._arguments(stream)
        decomposes = _accepts(self.function, "algebra")
        self._name_empty_layers(stream)
        devices = {"cpu", stream.compute_device.type}

        def merged(layer: Layer) -> Representation:
            if 0 in layer.shape:  # nothing to merge
                return layer.deltas[0]
            if layer.slices is not None and self.others is not self.function:
                return stack([merged(matrix) for matrix in layer.slices()])
            mine = layer.matrix or self.others is self.function
            function, given = (self.function, arguments) if mine else (self.others, {})

            def checked(deltas: Tensor, **more: Any) -> Representation:
                return check_result(function(deltas, **given, **more), deltas.shape, devices, self.name, layer.name)

            if getattr(function, "entrywise", False):
                return join_blocks([checked(block) for block in layer.blocks()], layer.shape[1:])
            if not (mine and decomposes):
                return checked(layer.deltas)
            if getattr(function, "factors_suffice", False):
                deltas, known = layer.to_decompose(algebra)
                return checked(deltas, algebra=known)
            return checked(layer.deltas, algebra=algebra)

        return merged

    def _name_empty_layers(self, stream: TaskVectors) -> None:
        """Log which layers keep no singular component: those with fewer rows or columns than there are tasks."""
        if "rank_fraction" not in self.params or self.params["rank_fraction"] is not None:
            return
        matrices = [name for name in stream.names if stream.is_matrix(name) or stream.is_stack(name)]
        small = [name for name in matrices if 0 < min(stream.base[name].shape[-2:]) < len(stream.tasks)]
        if small:
            log.warning(
                "%d layers have fewer rows or columns than the %d tasks, so that each task keeps 0 components (k = 0) "
                "and they stay the base's: %s; set rank_fraction, or average them with exclude",
                len(small),
                len(stream.tasks),
                ", ".join(small[:3]) + (", ..." if len(small) > 3 else ""),
            )

    def _arguments(self, stream: TaskVectors) -> dict[str, Any]:
        """What the function takes beside the deltas: the parameters, or what `prepare` made of them."""
        if self.prepare is None:
            return dict(self.params)
        found = self.prepare(stream, **self.params)
        if not isinstance(found, Mapping):
            came = f"its prepare returned {type(found).__name__}"
            raise UserError(f"method {self.name}: {came}; it may return a mapping of keyword arguments of the function")
        return dict(found)

    def name_for(self, layer: Layer) -> str:
        """By what a layer is merged: this method, or the function for layers that are not matrices."""
        mine = layer.matrix or self.others is self.function
        return self.name if mine else getattr(self.others, "__name__", "others")

    @property
    def merges_products(self) -> bool:
        """Whether its merge of task matrices that are products of thin factors is such a product."""
        return self.prepare is None and hasattr(self.function, "product")

    def bind_products(self, stream: TaskVectors, algebra: Algebra) -> Callable[[Layer], Representation]:
        """As `bind`; of layers whose deltas are products the merge is given as a product where the method has one."""
        bound = self.bind(stream, algebra)

        def merged(layer: Layer) -> Representation:
            mine = layer.matrix or self.others is self.function
            product = getattr(self.function if mine else self.others, "product", None)
            if product is None or layer.factors is None:
                return bound(layer)
            deltas, known = layer.to_decompose(algebra)
            return product(deltas, **(self.params if mine else {}), algebra=known)

        return merged


def _accepts(function: Function, parameter: str) -> bool:
    return parameter in _parameters(function)


def _parameters(function: Function) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # a built-in function without a signature
        return set()


def _function(method: str, path: Any) -> Function:
    try:
        function = resolve_name(str(path))
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "give package.module.function, in a folder on PYTHONPATH"
        raise UserError(f"method {method}: cannot import {path!r} ({error}); {remedy}") from error
    if not str(getattr(function, "__module__", "")).startswith("tsv_exp.methods."):
        _check_permitted(method, str(path))
    return function


def _check_permitted(method: str, path: str) -> None:
    """Check that Hydra's rules let a configuration name a function: os.system and the like are no methods."""
    from hydra.errors import InstantiationException  # half a second, which our own methods need not wait for
    from hydra.utils import instantiate

    try:
        instantiate({"_target_": path.replace(":", "."), "_partial_": True})
    except InstantiationException as error:
        raise UserError(f"method {method}: {path} cannot be a method: {' '.join(str(error).split())}") from error
