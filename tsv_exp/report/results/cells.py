"""Reads a run folder as a cell: its results, its failure, or its planned setting."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsv_exp.arguments import STRUCTURE
from tsv_exp.report.results.checks import line_of, name_of, number, read_yaml, values_of, whole
from tsv_exp.report.results.routing import NO_ROUTER, read_routing, routed_name
from tsv_exp.storage.json_files import read_object

RESULTS = "results.json"
_LARGEST_SEED = 1 << 64


@dataclass(frozen=True)
class Words:
    """What the user called a run."""

    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of one setting on one task set with one seed; accuracies are fractions.

    `method` includes the router if there is one: tsv_c + likelihood. `alpha` was given if `validation` has fewer than
    two points; `size` is the storage for all tasks relative to one full checkpoint per task. Fields that older results
    lack are empty.
    """

    folder: Path
    status: str  # ok | failed | unfinished
    model: str
    tasks: tuple[str, ...]
    method: str
    error: str | None = None  # None: finished
    seed: int = 0
    family: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    per_task: bool = False
    alpha: float | None = None
    validation: tuple[Mapping[str, Any], ...] = ()
    passes: float | None = None  # predictions that the choice of α took, in multiples of the validation examples
    tuned: Mapping[str, Any] = field(default_factory=dict)  # parameter -> task -> value chosen on validation
    tuning_passes: float | None = None  # that this took
    near_ties: tuple[float, ...] = ()  # values of α within one validation example of the best, compared in float32
    test: Mapping[str, Any] = field(default_factory=dict)
    size: float | None = None
    words: Words = Words()
    count: int = 0  # number of tasks, known even if their names are not
    order: int = 0  # in which the runs were found
    cell: str = ""  # digest of everything that determines the run
    digests: Mapping[str, str] = field(default_factory=dict)  # of the base and of each task's fine-tuned weights
    data: Mapping[str, str] = field(default_factory=dict)  # task -> digest of its examples and head
    precision: str = ""  # number format of the evaluation
    protocol: Mapping[str, Any] = field(default_factory=dict)  # how α was found
    settings: Mapping[str, Any] = field(default_factory=dict)  # the rest of the configuration: model.*, engine.*, ...
    routing: Mapping[str, Any] = field(default_factory=dict)  # what a router chose, if the task was unknown

    @property
    def chosen(self) -> bool:
        """Whether α was chosen on validation instead of given."""
        return len(self.validation) > 1

    @property
    def at_edge(self) -> bool:
        """Whether α was chosen at an end of its grid: a value outside may be better."""
        if not self.chosen or self.alpha is None:
            return False
        grid = self.protocol.get("grid")
        ends = (grid[0] / grid[1], grid[0]) if grid else [point["alpha"] for point in self.validation]
        return any(math.isclose(self.alpha, end) for end in (min(ends), max(ends)))

    @property
    def choice(self) -> dict[str, Any]:
        """How α was found, for the row's label; empty if the method has no choice of α."""
        if not self.protocol:
            return {"α by": "validation"} if self.chosen else {"α": self.alpha}
        policy, changed = self.protocol["policy"], self.protocol["changed"]
        if policy == "none":
            return {}
        if policy == "fixed":
            return {"α": changed["value"]} if "value" in changed else {"α by": "default"}
        return {"α by": policy, **{f"α {name}": value for name, value in changed.items()}}

    @property
    def conditions(self) -> dict[str, Any]:
        """The configuration without model, tasks, method, α and seed; precision belongs to the table."""
        apart = ("model.", "evaluate.precision", "router._target_")
        return {name: value for name, value in self.settings.items() if not name.startswith(apart)}

    @property
    def setting(self) -> tuple[str, str, str, str]:
        """The compared setting: the method, its parameters, how α was found, and the other conditions."""
        return self.method, plain(self.params), plain(self.choice), plain(self.conditions)

    @property
    def recipe(self) -> dict[str, Any]:
        """The configuration of the model with the seed unresolved, so that runs with several seeds share it."""
        return {name: value for name, value in self.settings.items() if name.startswith("model.")}

    @property
    def key(self) -> str:
        """Identity of the cell: two runs with the same key are repetitions; a run without one is unique."""
        return self.cell or str(self.folder)


def plain(values: Mapping[str, Any]) -> str:
    """Values as text that can be compared and parsed again."""
    return json.dumps(values, sort_keys=True, default=str)


def read_cell(folder: Path) -> Cell:
    """Read the cell of a run folder.

    Raises:
        OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError: a file is missing or invalid.
    """
    if (folder / RESULTS).exists():
        return from_results(read_object(folder / RESULTS), folder)
    return _unfinished(folder)


def from_results(results: Mapping[str, Any], folder: Path) -> Cell:
    """The cell of one results.json.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: a value is missing or of the wrong type.
    """
    status = results["status"]
    if status not in ("ok", "failed"):
        raise ValueError(f"status is {status!r}, neither 'ok' nor 'failed'")
    tasks, checkpoints = results.get("tasks"), results.get("checkpoints") or {}
    common: dict[str, Any] = {
        "folder": folder,
        "status": status,
        "model": name_of("model", results.get("model") or "unknown model"),
        "tasks": _names(tasks),
        "count": _count(tasks),
        "method": routed_name(
            name_of("method", results.get("method") or "unknown method"),
            name_of("router", results.get("router") or NO_ROUTER),
        ),
        "seed": whole("seed", results.get("seed") or 0, -_LARGEST_SEED, _LARGEST_SEED),
        "family": name_of("checkpoints.family", checkpoints.get("family") or ""),
        "params": values_of("params", results.get("params") or {}),
        "settings": flat(values_of("settings", results.get("settings") or {})),
        "words": _words(results),
    }
    if status == "failed":
        return Cell(**common, error=line_of(results.get("error") or "failed without a message"))
    if not common["tasks"]:
        raise ValueError(f"tasks is {tasks!r}, not a list of names")
    values_of("test", results["test"])
    test, validation = results["test"], tuple(results["validation"])
    figures = {"alpha": results["alpha"], "stored_bytes": results["stored_bytes"]}
    figures |= {f"test.{name}": test[name] for name in ("mean_accuracy", "mean_normalized", "standard_error")}
    if "standard_error_normalized" in test:
        figures["test.standard_error_normalized"] = test["standard_error_normalized"]
    figures |= {f"test.accuracy.{name}": test["accuracy"][name] for name in common["tasks"]}
    figures |= {f"test.normalized.{name}": test["normalized"][name] for name in common["tasks"]}
    for at, point in enumerate(validation):
        figures |= {f"validation.{at}.{name}": point[name] for name in ("alpha", "mean_normalized")}
        if "examples" in point:
            figures[f"validation.{at}.examples"] = point["examples"]
    figures |= {name: results[name] for name in ("validation_passes", "tuning_passes") if name in results}
    for name, value in figures.items():
        number(name, value)
    full = results.get("checkpoint_bytes")
    return Cell(
        **common,
        alpha=results["alpha"],
        validation=validation,
        passes=results.get("validation_passes"),
        tuned=_tuned(results),
        tuning_passes=results.get("tuning_passes"),
        near_ties=tuple(number("near_ties.alpha", point["alpha"]) for point in results.get("near_ties") or ()),
        test=test,
        per_task=bool(results.get("per_task")),
        cell=name_of("cell", results.get("cell") or ""),
        digests=_digests("checkpoints.digests", checkpoints.get("digests") or {}),
        data=_digests("data", results.get("data") or {}),
        precision=name_of("precision", results.get("precision") or ""),
        protocol=_protocol(results.get("alpha_protocol")),
        routing=read_routing(results.get("routing"), common["tasks"]),
        size=results["stored_bytes"] / (common["count"] * whole("checkpoint_bytes", full, 1)) if full else None,
    )


def _tuned(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Parameter -> task -> value: what was chosen for every task, not the ranks of layers."""
    chosen = {line_of(name): values for name, values in (results.get("chosen") or {}).items() if name != "rank"}
    return {name: values_of(f"chosen.{name}", values) for name, values in chosen.items() if values}


def _words(results: Mapping[str, Any]) -> Words:
    tags = results.get("tags") or ()
    return Words(line_of(results.get("name") or ""), tuple(map(line_of, tags)), line_of(results.get("notes") or ""))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings; keys are joined by dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _protocol(values: Any) -> dict[str, Any]:
    if not values:
        return {}
    policy, changed = name_of("alpha_protocol.policy", values["policy"]), values_of("alpha_protocol", values["changed"])
    if policy == "fixed" and "value" in changed:
        number("alpha_protocol.value", changed["value"])
    found: dict[str, Any] = {"policy": policy, "changed": changed}
    chosen_from = values_of("alpha_protocol.parameters", values.get("parameters") or {})
    if {"stop", "steps"} <= chosen_from.keys():
        stop, steps = number("alpha.stop", chosen_from["stop"]), whole("alpha.steps", chosen_from["steps"], 1)
        found["grid"] = (stop, steps)
    return found


def _unfinished(folder: Path) -> Cell:
    """A run without results: still running, or killed. Its setting is read from Hydra's composed configuration."""
    config = read_yaml(folder / ".hydra" / "config.yaml")
    hydra = read_yaml(folder / ".hydra" / "hydra.yaml")
    choices = hydra["hydra"]["runtime"]["choices"]
    return Cell(
        folder,
        "unfinished",
        model=name_of("model", choices["model"]),
        tasks=_names(config.get("tasks")),
        count=_count(config.get("tasks")),
        method=routed_name(name_of("method", choices["method"]), name_of("router", choices.get("router") or NO_ROUTER)),
        params=parameters(values_of("method", config["method"])),
        seed=whole("seed", config.get("seed") or 0, -_LARGEST_SEED, _LARGEST_SEED),
        error="no results yet: still running, or killed",
    )


def parameters(method: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a method's configuration: its keys without the structural ones."""
    return {name: value for name, value in method.items() if name not in STRUCTURE}


def _digests(what: str, values: Any) -> dict[str, str]:
    return {name: name_of(f"{what}.{name}", value) for name, value in values_of(what, values).items()}


def _names(tasks: Any) -> tuple[str, ...]:
    return tuple(name_of("a task", task) for task in tasks) if isinstance(tasks, list) else ()


def _count(tasks: Any) -> int:
    return whole("tasks", tasks) if isinstance(tasks, int) else len(_names(tasks))
