"""Sizes of matrices of which few rows change, such as embeddings."""

import pytest
import torch

from tsv_exp import layers, merge
from tsv_exp.config import Engine
from tsv_exp.layers import changed_rows, stored_bytes

WORDS, WIDTH = 100, 6


def embedding(changed: list[int]) -> torch.Tensor:
    delta = torch.zeros(WORDS, WIDTH)
    delta[changed, 0] = 1.0  # one entry is enough
    return delta


@pytest.mark.parametrize("changed", [[], [3], [0, 7, 99], list(range(85))])
def test_only_changed_rows_are_counted(changed: list[int]) -> None:
    delta = embedding(changed)
    rows = changed_rows(delta, 4)
    assert rows is not None
    assert rows.tolist() == changed
    assert stored_bytes(delta, delta.shape, 4) == len(changed) * (4 * WIDTH + 4)


@pytest.mark.parametrize(("changed", "itemsize"), [(range(86), 4), (range(75), 2), (range(100), 4)])
def test_never_more_than_all_rows(changed: range, itemsize: int) -> None:
    delta = embedding(list(changed))
    assert changed_rows(delta, itemsize) is None
    assert stored_bytes(delta, delta.shape, itemsize) == WORDS * WIDTH * itemsize


def test_other_shapes_have_no_rows() -> None:
    assert changed_rows(torch.ones(3), 4) is None
    assert changed_rows(torch.zeros(0, 4), 4) is None
    assert stored_bytes(torch.zeros(5, 3, 2), torch.Size([3, 2]), 4) == 0


def test_compressed_embeddings_cost_what_changed() -> None:
    base = {"embeddings.weight": torch.randn(WORDS, WIDTH), "dense.weight": torch.randn(8, 8)}
    seen = {"a": [1, 2], "b": [2, 50, 51]}
    finetuned = {
        task: {
            "embeddings.weight": base["embeddings.weight"] + embedding(rows),
            "dense.weight": base["dense.weight"] + torch.randn(8, 8),
        }
        for task, rows in seen.items()
    }
    merged = merge(base, finetuned, "tsv_c", engine=Engine(exclude=["embeddings.*"]))
    rows = 5 * (4 * WIDTH + 4)
    factors = 2 * 8 * 8 * 4  # two times four components are no smaller than the matrix
    assert merged.stored_bytes_without_base == rows + min(factors, 2 * 4 * 17 * 4)
    for task in seen:
        exact = finetuned[task]["embeddings.weight"] - base["embeddings.weight"]
        assert torch.equal(merged.vector(task)["embeddings.weight"], exact)


def test_blocks_of_rows_are_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_BLOCK", 3 * WIDTH)
    u, s, vh = torch.randn(WORDS, 2), torch.rand(2), torch.randn(2, WIDTH)
    product = layers.LowRank(u, s, vh)
    shape = torch.Size([WORDS, WIDTH])
    blocks = list(layers.delta_blocks(product, shape))
    assert [len(block) for block in blocks] == [3] * 33 + [1]
    torch.testing.assert_close(torch.cat(blocks), product.dense())
    several = torch.randn(2, WORDS, WIDTH)
    assert torch.equal(torch.cat(list(layers.delta_blocks(several, shape, 1))), several[1])
    assert [block.shape for block in layers.delta_blocks(torch.ones(()), torch.Size([]))] == [()]
    assert [block.shape for block in layers.delta_blocks(torch.ones(0, 4), torch.Size([0, 4]))] == [(0, 4)]


def test_joined_blocks_are_the_layer() -> None:
    entries = torch.randn(2, 12)
    found = layers.join_blocks((part for part in entries.split(5, 1)), torch.Size([3, 4]))
    assert torch.equal(found, entries.view(2, 3, 4))
    masks, scales = entries > 0, torch.rand(2)
    runs = (layers.Masked(entries[0, i : i + 5], masks[:, i : i + 5], scales) for i in (0, 5, 10))
    joined = layers.join_blocks(runs, torch.Size([3, 4]))
    for part, expected in zip(joined, (entries[0].view(3, 4), masks.view(2, 3, 4), scales), strict=True):
        assert torch.equal(part, expected)
