"""Order statistics of streams, against sorting."""

import pytest
import torch
from torch import Tensor

from tsv_exp.merging import selection
from tsv_exp.merging.selection import kth_magnitudes
from tsv_exp.merging.task_vectors import TaskVectors

SHAPES = {"a.weight": (96, 64), "a.bias": (96,), "scale": (), "b.weight": (33, 7), "nothing": (0, 4)}


def stream(deltas: dict[str, Tensor]) -> TaskVectors:
    """The stream of deltas (T, *shape) by name."""
    base = {name: torch.zeros_like(delta[0]) for name, delta in deltas.items()}
    tasks = len(next(iter(deltas.values())))
    return TaskVectors(base, {f"task{i}": {name: delta[i] for name, delta in deltas.items()} for i in range(tasks)})


def expected(deltas: dict[str, Tensor], rank: int) -> Tensor:
    flat = torch.cat([delta.reshape(len(delta), delta[0].numel()) for delta in deltas.values()], 1).abs().sort(1).values
    return flat[:, rank - 1] if rank else torch.zeros(len(flat), dtype=flat.dtype)


def random(name: str, tasks: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(7)
    deltas = {n: torch.randn((tasks, *shape), generator=g, dtype=dtype) for n, shape in SHAPES.items()}
    scales = torch.logspace(-6, 3, tasks, dtype=dtype)
    change = {
        "normal": lambda x: x,
        "scales": lambda x: x * scales.view(-1, *[1] * (x.dim() - 1)),
        "sparse": lambda x: x * (x.abs() > 1.5),
        "coarse": lambda x: (x * 4).round() / 4,
        "tiny": lambda x: x * torch.finfo(dtype).tiny,
        "constant": lambda x: torch.full_like(x, -2.5),
        "zero": torch.zeros_like,
        "spread": lambda x: torch.exp(20 * x),
        "rows": lambda x: x * torch.linspace(0, 9, x.shape[-1], dtype=dtype) if x.dim() > 1 and x.shape[-1] else x,
    }[name]
    return {n: change(x) for n, x in deltas.items()}


KINDS = ["normal", "scales", "sparse", "coarse", "tiny", "constant", "zero", "spread", "rows"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sample", "bins"), [(1 << 20, 1 << 18), (256, 64), (16, 1 << 18)])
def test_every_rank_is_that_of_the_sorted_magnitudes(
    kind: str, dtype: torch.dtype, sample: int, bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_SAMPLE", sample)
    monkeypatch.setattr(selection, "_BINS", bins)
    deltas = random(kind, dtype=dtype)
    taus = stream(deltas)
    for rank in (0, 1, 2, taus.size // 5, taus.size * 4 // 5, taus.size - 1, taus.size):
        assert torch.equal(kth_magnitudes(taus, rank), expected(deltas, rank)), rank


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list:
    """The passes over the stream that count, as they are made."""
    made: list = []
    counts = selection._counts
    monkeypatch.setattr(selection, "_counts", lambda *args: made.append(args) or counts(*args))
    return made


def test_a_sample_that_misleads_costs_passes_not_exactness(passes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_SAMPLE", 64)
    x = torch.rand(2, 64 * 64)
    x[0, ::67] *= 1e-6  # what the sample sees (64 entries, every 67th) lies below the rest of the first task ...
    x[1, ::67] += 1e6  # ... and above that of the second
    deltas = {"x": x}
    rank = x.shape[1] // 2
    assert torch.equal(kth_magnitudes(stream(deltas), rank), expected(deltas, rank))
    assert len(passes) > 1


def test_a_fair_sample_needs_one_pass(passes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_SAMPLE", 1 << 14)
    monkeypatch.setattr(selection, "_BINS", 1 << 20)
    deltas = {"x": torch.randn(2, 1 << 18, generator=torch.Generator().manual_seed(0))}
    rank = deltas["x"].shape[1] * 4 // 5
    assert torch.equal(kth_magnitudes(stream(deltas), rank), expected(deltas, rank))
    assert len(passes) == 1


def test_half_precision_checkpoints_differ_by_few_numbers() -> None:
    g = torch.Generator().manual_seed(0)
    base = {"x": torch.randn(300, 200, generator=g).bfloat16()}
    models = {f"task{i}": {"x": base["x"] + (1e-3 * torch.randn(300, 200, generator=g)).bfloat16()} for i in range(2)}
    taus = TaskVectors(base, models)
    deltas = {"x": torch.stack([model["x"].float() - base["x"].float() for model in models.values()])}
    for rank in (1, taus.size // 2, taus.size * 4 // 5, taus.size):
        assert torch.equal(kth_magnitudes(taus, rank), expected(deltas, rank))
