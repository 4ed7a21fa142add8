"""Layers of very many entries (here: of 100) are merged in parts, and give what whole ones give."""

import pytest
from models import close, same
from safetensors.torch import load_file

from tsv_exp import apply, layers, merge
from tsv_exp.decompositions import numerics
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse
from tsv_exp.merging import layer as layer_module
from tsv_exp.methods.specification import binding

WEIGHTS = {"task0": 0.5, "task2": -2.0}
MULTIPLIED = "weights={task0: 0.5, task2: -2.0}"


def weighted(base, finetuned):
    """The models with their task vectors multiplied by WEIGHTS."""
    return {
        task: {name: start + WEIGHTS.get(task, 1.0) * (model[name] - start) for name, start in base.items()}
        for task, model in finetuned.items()
    }


def nearly(folder, expected, tolerance=1e-6):
    """Relative error of every floating-point tensor."""
    merged = load_file(folder / "model.safetensors")
    floating = {name: weight.double() for name, weight in expected.items() if weight.is_floating_point()}
    close({name: merged[name] for name in floating}, floating, tolerance)


@pytest.mark.parametrize("more", [[], [MULTIPLIED], ["svd=exact"]])
def test_large_layers_are_merged_in_parts(files, tmp_path, monkeypatch, more):
    """As products of factors, and a few rows at a time."""
    base, finetuned, words = files
    models = weighted(base, finetuned) if more == [MULTIPLIED] else finetuned
    expected = apply(base, merge(base, models, "tsv_m"), 0.7)
    monkeypatch.setattr(layers, "LARGE", 100)
    monkeypatch.setattr(layers, "_BLOCK", 100)
    monkeypatch.setattr(numerics, "ROWS", 50)
    run(parse([*words, "method=tsv_m", "alpha=0.7", *more]))
    nearly(tmp_path / "out", expected, 1e-5 if more else 1e-6)


@pytest.mark.parametrize("method", ["weight_average", "ties", "task_arithmetic"])
def test_large_layers_that_are_merged_entry_by_entry_are_never_whole(files, tmp_path, monkeypatch, method):
    base, finetuned, words = files
    by_weights = method == "task_arithmetic"
    expected = apply(base, merge(base, weighted(base, finetuned) if by_weights else finetuned, method), 0.7)
    monkeypatch.setattr(layers, "LARGE", 100)
    monkeypatch.setattr(layer_module, "_BLOCK", 90)  # entries of three models
    sizes, joined = [], layers.join_blocks
    monkeypatch.setattr(binding, "join_blocks", lambda runs, shape: sizes.append(shape.numel()) or joined(runs, shape))
    run(parse([*words, f"method={method}", "alpha=0.7", "exclude='*'", *([MULTIPLIED] if by_weights else [])]))
    assert max(sizes) <= 100
    (nearly if by_weights else same)(tmp_path / "out", expected)
