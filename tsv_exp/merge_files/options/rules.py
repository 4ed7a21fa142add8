"""Rules for the method, scaling and rank of each layer of a merge, and checks of the patterns of all options."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from tsv_exp import layers
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.options.values import ALL
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.merging.layer import Layer, Weights
from tsv_exp.merging.results.weights import check_alpha
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method

Bound = Callable[[Layer], Representation]


@dataclass(frozen=True, eq=False)  # compared by identity
class Rule:
    """How layers whose names match `pattern` are merged; `rank` is the rank of an adapter's matrices."""

    pattern: str
    method: Method
    alpha: float
    rank: int | None

    @classmethod
    def read(cls, pattern: str, given: Mapping[str, Any], options: Options) -> "Rule":
        """Build a rule from `method`, `alpha`, `rank` and the method's parameters."""
        keys = dict(given)
        method = Method.load(str(keys.pop("method", options.method)), options.search)
        if method.across is not None or method.needs_moments:
            lacking = "inputs" if method.needs_moments else "all layers at once"
            raise UserError(
                f"method {method.name} needs {lacking}, and tsv-merge has one layer at a time, without inputs; "
                "use tsv-exp with save_merged=true, or tsv_exp.merge"
            )
        alpha, rank = keys.pop("alpha", None), keys.pop("rank", None)
        own = method.name == options.method and "method" not in given
        method.check_keys(keys, ALL)
        method = method.with_params(**(options.params if own else {}) | keys)
        shared = options.alpha if own else None
        chosen = next((value for value in (alpha, shared) if value is not None), method.alpha.default)
        check_alpha(chosen)
        return cls(pattern, method, float(chosen), options.rank if rank is None else rank)


@dataclass(frozen=True)
class Plan:
    """The rules in order; the first that matches a layer's name applies, and the last one matches all names."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, options: Options) -> "Plan":
        """The rules of `layers`, then the command's method for all other layers."""
        rest = Rule.read("*", {"method": options.method, "alpha": options.alpha} | options.params, options)
        return cls((*(Rule.read(pattern, given, options) for pattern, given in options.layers.items()), rest))

    def rule(self, name: str) -> Rule:
        """The rule for a layer."""
        return next(rule for rule in self.rules if fnmatchcase(name, rule.pattern))

    @cached_property
    def description(self) -> list[dict[str, Any]]:
        """The rules as plain values."""
        return [
            {"layers": rule.pattern, "method": rule.method.name, "alpha": rule.alpha}
            | ({} if rule.rank is None else {"rank": rule.rank})
            | {"parameters": dict(rule.method.params)}
            for rule in self.rules
        ]

    def bind(self, stream: TaskVectors, algebra: Algebra, products: bool) -> Bound:
        """Bind the methods to their layers. A method that first reads all layers sees only those that it merges.

        Args:
            stream: the task vectors.
            algebra: how decompositions are computed.
            products: whether merges of low-rank products stay low-rank products.
        """
        names: dict[Rule, list[str]] = {rule: [] for rule in self.rules}
        for name in stream.names:
            names[self.rule(name)].append(name)
        functions: dict[Rule, Bound] = {}
        for rule in self.rules:
            its = stream if len(self.rules) == 1 else replace(stream, only=tuple(names[rule]))
            if names[rule]:
                functions[rule] = (rule.method.bind_products if products else rule.method.bind)(its, algebra)
        return lambda layer: functions[self.rule(layer.name)](layer)

    def per_task(self, stream: TaskVectors, bound: Bound, task: str | None) -> bool:
        """Whether there is one model per task, tested on each rule's smallest matrix and smallest other layer.

        Empty layers, which merge to themselves, tell nothing.

        Raises:
            UserError: rules disagree, and no task is given whose model is wanted.
        """
        smallest: dict[tuple[Rule, bool], str] = {}
        sizes = {name: size for name in stream.names if (size := stream.base[name].numel())}
        for name in sorted(sizes, key=sizes.__getitem__):
            smallest.setdefault((self.rule(name), stream.is_matrix(name)), name)
        found: dict[Rule, bool] = {}
        for (rule, _), name in smallest.items():
            by_task = layers.per_task(bound(stream.layer(name)), stream.base[name].shape)
            found[rule] = found.get(rule, False) or by_task
        if len(set(found.values())) > 1 and task is None:
            several = ", ".join(sorted({rule.method.name for rule, by_task in found.items() if by_task}))
            raise UserError(f"layers: {several} gives a model per task and the other methods one model; give task=NAME")
        return any(found.values())


def check_patterns(options: Options, bases: Sequence[Weights], models: Iterable[str]) -> None:
    """Check the patterns of `keep`, `ignore`, `exclude`, `stacks` and `layers`.

    Args:
        options: of the whole merge.
        bases: the base, or its components.
        models: names of the models' tensors.

    Raises:
        UserError: a pattern matches no tensor that it can apply to.
    """
    floating = [
        (name, weight.dim())
        for base in bases
        for name, weight in base.items()
        if weight.is_floating_point() and not matches(name, options.keep)
    ]
    _all_match("keep", options.keep, [name for base in bases for name in base], "base's tensors")
    _all_match("ignore", options.ignore, list(models), "models' tensors")
    _all_match("exclude", options.exclude, [name for name, dim in floating if dim in (2, 3)], "base's 2-D weights")
    _all_match("stacks", options.stacks, [name for name, dim in floating if dim == 3], "base's 3-D weights")
    left = [name for name, _ in floating]
    for pattern in options.layers:
        rest = [name for name in left if not fnmatchcase(name, pattern)]
        if len(rest) == len(left):
            some = ", ".join(name for name, _ in floating[:3])
            raise UserError(f"layers: {pattern!r} is the first match of no layer ({some}, ...)")
        left = rest


def _all_match(option: str, patterns: Iterable[str] | None, names: Sequence[str], what: str) -> None:
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            some = f" ({', '.join(names[:3])}, ...)" if names else ""
            raise UserError(f"{option}={pattern!r} matches none of the {what}{some}; * is any part of a name")
