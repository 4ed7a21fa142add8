"""Numbers that each version constant stands for, on small inputs; `python tests/support/golden.py` records them."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from models import METHODS, matrix, moments, zoo
from PIL import Image
from torch import Tensor

from tsv_exp import merge, versions
from tsv_exp.data.splits import Holdout
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.evaluation.alpha import propose
from tsv_exp.evaluation.alpha.race import interleaved, race
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.finetuning.training import Recipe
from tsv_exp.methods.regression.white_reg import white_reg
from tsv_exp.models.images import preprocess
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel

RECORD = Path(__file__).with_name("golden.json")


def projection(tensor: Tensor) -> float:
    """One number that depends on every entry and its place."""
    flat = tensor.detach().double().reshape(-1)
    weights = torch.cos(torch.arange(1, len(flat) + 1, dtype=torch.float64))
    return float(flat @ weights)


def projections(tensors: Mapping[str, Tensor]) -> float:
    """The same of several tensors."""
    return sum(projection(tensor) for tensor in tensors.values())


def decompositions() -> dict[str, float]:
    matrices = torch.stack([matrix(300, 200, torch.Generator().manual_seed(i), 0.9).float() for i in range(2)])
    fast = FastAlgebra()
    return {
        "components": projection(fast.truncated_svd(matrices, 30).dense()),
        "polar": projection(fast.polar(matrices).dense()),
    }


def methods() -> dict[str, float]:
    base, finetuned = zoo(3)
    found = {}
    for name in METHODS:
        merged = merge(base, finetuned, name, moments=moments(base, 3))
        found[name] = projections(merged.vector("task1" if merged.per_task else None))
    adapters = torch.stack([matrix(24, 20, torch.Generator().manual_seed(i), rank=2) for i in range(3)])
    return {**found, "white_reg of low rank": projection(white_reg(adapters))}


def tiny() -> TinyModel:
    recipe = Recipe(lr=1e-3, steps=3, batch_size=16, precision="float32")
    return TinyModel(Data(seed=1, train=64, validation=20, test=20), recipe)


def tiny_data() -> dict[str, float]:
    model = tiny()
    return {
        task.name: float(model.data.split(task.name, "test").inputs[:8].double().mean())
        for task in model.catalogue().values()
    }


def tiny_network() -> dict[str, float]:
    model, pixels = tiny(), torch.arange(2 * 3 * 28 * 28, dtype=torch.int64).view(2, 3, 28, 28) % 256
    features = model.encoder()(model.prepare(pixels.to(torch.uint8), torch.device("cpu")))
    return {"features": projection(features), "head": projection(model.head(model.catalogue()["clock"]))}


def finetuning() -> dict[str, float]:
    model = tiny()
    task = model.catalogue()["shapes"]
    weights = model.finetuned([task])[task.name]
    base = model.base()
    return {"change": float(sum((weights[name] - base[name]).double().norm() for name in base))}


def evaluation() -> dict[str, float]:
    model = tiny()
    tasks = [model.catalogue()[name] for name in ("digits", "colors")]
    evaluator = Evaluator(model, tasks, torch.device("cpu"), precision="float32")
    merged = merge(model.base(), {task.name: model.base() for task in tasks}, "weight_average")
    return {f"{name} accuracy": value for name, value in evaluator.accuracies(merged, 1.0, "test").items()}


def choices() -> dict[str, float]:
    tasks, rows = interleaved([400, 60])
    peaks = np.where(tasks == 0, 8, 20) + rows * 7 % 11
    labels = np.zeros(len(tasks), np.int64)
    raced = race(
        30,
        tasks,
        labels,
        np.ones(2),
        lambda value, asked: np.sign(abs(value - peaks[asked]) // 9),
        error=0.05,
        passes=3,
    )
    found = {"searched": propose({5: 0.5, 15: 0.8, 25: 0.6}, 30), "raced": raced.chosen, "asked": raced.asked}
    return found | {"accuracy": float(raced.accuracy.sum()), "examples": int(raced.examples.sum())}


def clip() -> dict[str, float]:
    picture = Image.fromarray(torch.arange(40 * 60 * 3).view(40, 60, 3).remainder(251).to(torch.uint8).numpy())
    train, validation = Holdout().draw(1000)
    return {
        "pixels": projection(preprocess(picture, 32)),
        "train": projection(train),
        "validation": projection(validation),
    }


PARTS = {
    "DECOMPOSITIONS": decompositions,
    "METHODS": methods,
    "EVALUATION": evaluation,
    "CHOICES": choices,
    "FINETUNING": finetuning,
    "TINY_DATA": tiny_data,
    "TINY_NETWORK": tiny_network,
    "CLIP": clip,
}


def record() -> None:
    """Write what is computed now."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TSV_EXP_CACHE"] = folder
        found = {name: {"version": versions.ALL[name], "values": part()} for name, part in PARTS.items()}
    RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
