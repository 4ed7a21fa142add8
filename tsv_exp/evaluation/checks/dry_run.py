"""Runs a method on tiny random task vectors, so that its errors appear before anything is loaded."""

from pathlib import Path

import torch

from tsv_exp import layers
from tsv_exp.checkpoints.adapters.factors import Adapter, FactoredModel
from tsv_exp.config import Engine
from tsv_exp.errors import UserError
from tsv_exp.merging.engine import merge_layers
from tsv_exp.merging.layer import Weights
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import silent


def dry_run(method: Method, tasks: int) -> bool:
    """Merge random task vectors of a matrix and a vector, also with every candidate value of a per-task parameter.

    A method that needs factors gets adapters that change the matrix.

    Args:
        method: the method with its parameters.
        tasks: T; the matrix is (2T + 2, 2T + 4), large enough for distinct singular components of every task.

    Returns:
        Whether the method gives a model per task.

    Raises:
        UserError: a parameter is outside its domain, or the method's function fails or returns an invalid layer.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (2 * tasks + 2, 2 * tasks + 4), "vector": (2 * tasks + 2,)}
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    models: dict[str, Weights] = {
        str(task): {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for task in range(tasks)
    }
    if method.needs_factors:
        models = {task: _adapter(model, base) for task, model in models.items()}
    stream, engine = TaskVectors(base, models), Engine(svd="exact")
    per_task = False
    moments = torch.eye(shapes["matrix"][1]).expand(tasks, -1, -1)
    tuned = [method.tuner(value) for value in method.tune.values] if method.tune else []
    for one in [method, *tuned]:
        try:
            with silent():
                merged = merge_layers(stream, one, engine, {"matrix": moments}.get)
                for name, layer in merged.layers.items():
                    layers.delta(layer, base[name].shape, 0)
            per_task = per_task or (one is method and merged.per_task)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"method {method.name}: its function fails on a small example, deltas of shape ({tasks}, "
                f"{shapes['matrix'][0]}, {shapes['matrix'][1]}) and ({tasks}, {shapes['vector'][0]}): "
                f"{type(error).__name__}: {error}"
            ) from error
    return per_task


def _adapter(weights: Weights, base: Weights) -> FactoredModel:
    b = weights["matrix"]
    return FactoredModel(Adapter(Path(), {}, {"matrix": (b, torch.eye(b.shape[1]), 1.0)}, ("matrix",)), base)
