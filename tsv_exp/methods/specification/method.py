"""The specification of a merging method: the content of its YAML in conf/method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tsv_exp.arguments import STRUCTURE, check_arguments, check_types
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError, did_you_mean
from tsv_exp.merging.layer import Layer, Moments
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.binding import Bound, bind, bind_products
from tsv_exp.methods.specification.files import content, method_files
from tsv_exp.methods.specification.functions import Function, accepts, function_of, parameters_of, required
from tsv_exp.methods.specification.scaling import Alpha, Tune
from tsv_exp.methods.specification.steps import PLACES, Step, read_steps

GIVEN = ("algebra", "moments")  # parameters of a function that the engine fills in
RESERVED = {*STRUCTURE, *PLACES}  # keys of a method's YAML that a parameter cannot have as its name


@dataclass(frozen=True)
class Method:
    """Everything that differs between methods; no other code depends on which method it runs.

    Args:
        name: the name in its YAML.
        function: deltas (T, *shape), **params -> the merged layer. With `prepare`, it gets the result of that instead.
        prepare: (stream, **params) -> keyword arguments of the function, after passes over all layers.
        across: norms of the merged matrices of one kind (L,) -> factors (L,) that scale them, after all layers.
        others: the function of layers that are not matrices; `function` itself if the YAML has `layers: all`.
        features: whose features the layers' inputs are: each task's `own` network's, or for each block those of the
            `merged` blocks before it.
        alpha: the scaling.
        tune: a parameter chosen per task.
        params: parameters of `prepare`, if any, else of the function; and the lists of steps `before` and `after`.
    """

    name: str
    function: Function
    others: Function
    prepare: Function | None = None
    across: Function | None = None
    features: str = "own"
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
            hint = did_you_mean(str(name), known)
            raise UserError(f"unknown method {name!r}; {hint}choose from: {', '.join(sorted(known))}")
        return cls.from_config(content(name, search))

    @classmethod
    def from_config(cls, config: Any) -> "Method":
        """The method described by a mapping with the keys of conf/method; all other keys are its parameters.

        Raises:
            UserError: a key is missing or has a wrong value, or a function cannot be imported or does not have the
                parameters.
        """
        plain: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
        keys = dict(plain)
        name = str(keys.pop("name", "without a name"))
        if "_target_" not in keys:
            raise UserError(f"method {name}: its YAML has no _target_; name its function there")
        function = function_of(name, keys.pop("_target_"))
        prepare, across = keys.pop("prepare", None), keys.pop("across", None)
        scope = keys.pop("layers", "all")
        if scope not in ("all", "matrices"):
            raise UserError(f"method {name}: layers={scope}; choose from: all, matrices")
        others = keys.pop("others", "tsv_exp.methods.entrywise.weight_average")
        features = keys.pop("features", "own")
        if features not in ("own", "merged"):
            raise UserError(f"method {name}: features={features}; choose from: own, merged")
        if features == "merged" and (prepare or across):
            raise UserError(f"method {name}: features=merged merges block by block, without prepare and across")
        alpha, tune = keys.pop("alpha", None) or {}, keys.pop("tune", None)
        try:
            tuned = tune and Tune(tune["parameter"], tuple(tune["values"]), function_of(name, tune["function"]))
            scaling = Alpha(**alpha)
        except (TypeError, KeyError) as error:
            raise UserError(
                f"method {name}: alpha or tune in its YAML does not have the documented form: {error}"
            ) from error
        first = prepare and function_of(name, prepare)
        taker = first or function
        if taken := sorted(RESERVED.intersection(parameters_of(taker))):
            raise UserError(
                f"method {name}: its function has a parameter {taken[0]!r}, which is a key of every method's YAML "
                "with its own meaning; rename the parameter"
            )
        method = cls(
            name=name,
            function=function,
            others=function if scope == "all" else function_of(name, others),
            prepare=first,
            across=across and function_of(name, across),
            features=features,
            alpha=scaling,
            tune=tuned,
            params=keys,
        )
        known = {key: None for key in GIVEN if accepts(taker, key)}
        if given := sorted(known.keys() & keys):
            raise UserError(
                f"method {name}: {given[0]} is not a parameter to set; the engine passes it to the function"
            )
        check_arguments(f"method {name}: ", taker, method.own_params | known, 1)
        return method._with_known_steps()

    def _with_known_steps(self) -> "Method":
        """The method itself; reads its steps, so that an error in them appears at once."""
        _ = self.before, self.after
        return self

    @cached_property
    def own_params(self) -> dict[str, Any]:
        """The parameters without the steps."""
        return {key: value for key, value in self.params.items() if key not in PLACES}

    @cached_property
    def before(self) -> tuple[Step, ...]:
        """The steps from deltas to deltas."""
        return read_steps(self.name, "before", self.params.get("before", ()))

    @cached_property
    def after(self) -> tuple[Step, ...]:
        """The steps from the merged layer and the models' own deltas to the merged layer."""
        return read_steps(self.name, "after", self.params.get("after", ()))

    def with_params(self, **params: Any) -> "Method":
        """The method with other values of its parameters, or with other steps.

        Raises:
            UserError: one of them is not a key of its YAML, or not of the type that the function takes.
        """
        self.check_keys(params)
        changed = replace(self, params={**self.params, **params})
        check_types(f"method {self.name}: ", self.prepare or self.function, changed.own_params)
        return changed._with_known_steps()

    def check_keys(self, keys: Iterable[str], options: Sequence[str] = ()) -> None:
        """Check that keys are parameters or steps; `options` are other words that the user may have meant.

        Raises:
            UserError: one of them is not.
        """
        known = (*self.own_params, *PLACES)
        for key in keys:
            if key not in self.params and key not in known:
                hint = did_you_mean(key, (*options, *known))
                raise UserError(f"method {self.name} has no parameter {key!r}; {hint}it has: {', '.join(known)}")

    def tuner(self, value: float) -> "Method":
        """The method that scores one value of the tuned parameter."""
        assert self.tune is not None
        return replace(
            self,
            function=self.tune.function,
            others=self.tune.function,
            prepare=None,
            across=None,
            tune=None,
            params={self.tune.parameter: value, "before": self.params.get("before", ())},
        )

    def tuned(self, values: Sequence[float]) -> "Method":
        """The method with the tuned parameter that each task chose."""
        assert self.tune is not None
        return self.with_params(**{self.tune.parameter: list(values)})

    def merges(self, layer: Layer) -> bool:
        """Whether a layer is merged by this method's function, not by that of other layers."""
        return layer.matrix or self.others is self.function

    def merges_entries(self, layer: Layer) -> bool:
        """Whether each entry of a layer's merge depends only on the deltas of that entry."""
        function = self.function if self.merges(layer) else self.others
        of_matrices = layer.slices is not None and self.others is not self.function
        return getattr(function, "entrywise", False) and not (of_matrices or self.before or self.after)

    def name_for(self, layer: Layer) -> str:
        """The name of what merges a layer: this method, or the function for layers that are not matrices."""
        own = self.merges(layer) or layer.slices is not None
        return self.name if own else getattr(self.others, "__name__", "others")

    @property
    def takes_moments(self) -> bool:
        """Whether it can use second moments of the layers' inputs."""
        return accepts(self.function, "moments")

    @property
    def needs_moments(self) -> bool:
        """Whether it needs them: its function has no default for `moments`."""
        return required(self.function, "moments")

    @property
    def needs_factors(self) -> bool:
        """Whether it merges adapters only: a step of `before` changes their factors."""
        return any(step.takes_factors for step in self.before)

    @property
    def merges_products(self) -> bool:
        """Whether it can merge task matrices that are products of thin factors into such a product."""
        return self.prepare is None and not self.before and not self.after and hasattr(self.function, "product")

    def bind(self, stream: TaskVectors, algebra: Algebra, moments: Moments | None = None) -> Bound:
        """The function of one layer, with parameters and global statistics filled in; it decomposes by `algebra`."""
        return bind(self, stream, algebra, moments)

    def bind_products(self, stream: TaskVectors, algebra: Algebra) -> Bound:
        """As `bind`; if the deltas of a layer are products and the method supports it, the merge is a product too."""
        return bind_products(self, stream, algebra)
