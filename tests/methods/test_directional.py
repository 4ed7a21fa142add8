"""DC-Merge against a float64 computation on whole matrices."""

import math

import pytest
import torch
from models import matrix
from torch.linalg import svd

from tsv_exp import UserError, merge


def dc_merge(parts, density):
    tasks, m, n = parts.shape
    k = min(m, n) // tasks
    cut = []
    for part in parts:
        u, s, vh = svd(part, full_matrices=False)
        rank = min(k, int((s > max(m, n) * 1e-15 * s[0]).sum()))
        cut.append((u[:, :rank], s[:rank], vh[:rank]))
    p, _, q = svd(torch.cat([u for u, _, _ in cut], 1), full_matrices=False)
    left = p @ q
    p, _, q = svd(torch.cat([vh for _, _, vh in cut]), full_matrices=False)
    right = p @ q
    aligned = []
    for u, s, vh in cut:
        entry = left.T @ (u @ s.diag() @ vh) @ right.T
        kept = sorted(entry.abs().flatten().tolist(), reverse=True)[: max(1, math.floor(density * entry.numel()))]
        aligned.append(torch.where(entry.abs() >= kept[-1], entry, 0))
    merged = torch.zeros_like(aligned[0])
    blocks = [i for i, (_, s, _) in enumerate(cut) for _ in s]
    for x in range(len(merged)):
        for y in range(len(merged)):
            values = [float(entry[x, y]) for entry in aligned]
            total = sum(values)
            same = [value for value in values if value * total > 0]
            if same and blocks[x] == blocks[y]:
                merged[x, y] = sum(same) / len(same)
    return left @ merged @ right


def tasks(count, m, n, rank=None):
    g = torch.Generator().manual_seed(count)
    return torch.stack([matrix(m, n, g, rank=rank) for _ in range(count)])


def merged(parts, **params):
    base = {"w": torch.zeros(parts.shape[1:], dtype=parts.dtype)}
    return merge(base, {f"t{i}": {"w": part} for i, part in enumerate(parts)}, "dc_merge", **params).vector()["w"]


@pytest.mark.parametrize("density", [0.001, 0.05, 0.4, 1])
@pytest.mark.parametrize("shape", [(20, 14), (14, 20), (16, 16)])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_against_whole_matrices(count, shape, density):
    parts = tasks(count, *shape)
    torch.testing.assert_close(merged(parts, density=density), dc_merge(parts, density), rtol=1e-8, atol=1e-10)


def test_low_rank_and_zero_tasks():
    parts = torch.cat([tasks(2, 18, 12, rank=2), torch.zeros(1, 18, 12, dtype=torch.float64)])
    found = merged(parts, density=0.5)
    u = torch.cat([svd(part, full_matrices=False)[0][:, :2] for part in parts[:2]], 1)
    assert found.isfinite().all()
    assert torch.linalg.matrix_rank(torch.cat([u, found], 1), rtol=1e-9) == 4, "nothing outside the tasks' spans"
    assert not merged(torch.zeros(2, 5, 4)).any()


@pytest.mark.parametrize("ratio", [5.0, 1.5])
def test_adapters_are_smoothed_first(ratio):
    parts = tasks(3, 20, 16, rank=4)
    smoothed = []
    for part in parts:
        u, s, vh = svd(part, full_matrices=False)
        top = min(ratio, float(s[0] / s[3]))
        line = torch.tensor([top - i * (top - 1) / 3 for i in range(4)], dtype=torch.float64)
        smoothed.append(u[:, :4] @ (line / line.sum() * s[:4].sum()).diag() @ vh[:4])
    expected = dc_merge(torch.stack(smoothed), 0.1)
    found = merged(parts, density=0.1, before=[{"smooth": {"ratio": ratio}}])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    single = merged(parts[:, :, :1] @ parts[:, :1, :], density=1, before=["smooth"])
    torch.testing.assert_close(single, merged(parts[:, :, :1] @ parts[:, :1, :], density=1), rtol=1e-8, atol=1e-10)
    assert not merged(torch.zeros(2, 5, 4), before=["smooth"]).any()
    with pytest.raises(UserError, match="ratio=0"):
        merged(parts, before=[{"smooth": {"ratio": 0}}])


def test_density_is_a_share():
    with pytest.raises(UserError, match="density=0"):
        merged(tasks(2, 8, 6), density=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("density", [0.2, 1])
def test_tasks_that_do_not_overlap_all_remain_whole(density, dtype):
    g = torch.Generator().manual_seed(0)
    left, right = torch.linalg.qr(matrix(30, 30, g)).Q, torch.linalg.qr(matrix(24, 24, g)).Q
    parts = torch.zeros(3, 30, 24, dtype=torch.float64)
    for i, part in enumerate(tasks(3, 10, 8)):
        parts[i, 10 * i : 10 * (i + 1), 8 * i : 8 * (i + 1)] = part
    parts = left @ parts @ right
    torch.testing.assert_close(merged(parts.to(dtype), density=density).double(), parts.sum(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_tasks_do_not_depend_on_rounding(dtype):
    """M_t = ½ [Σ Σ; Σ Σ] of two equal tasks: its largest entry is there four times, twice in the diagonal blocks."""
    part = tasks(1, 30, 24)[0]
    u, s, vh = svd(part, full_matrices=False)
    expected = s[0] / 2 * u[:, :1] @ vh[:1]
    for seed in range(4):
        turn = torch.linalg.qr(matrix(30, 30, torch.Generator().manual_seed(seed))).Q
        found = merged((turn @ torch.stack([part, part])).to(dtype)).double()
        torch.testing.assert_close(turn.T @ found, expected, rtol=0, atol=1e-4)
