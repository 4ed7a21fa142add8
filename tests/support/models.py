"""Small models to merge: every kind of parameter, with task vectors of a decaying spectrum."""

from pathlib import Path

import torch

from tsv_exp.checkpoints.readers import read
from tsv_exp.config import conf_dir

METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("[!_]*.yaml"))


def matrix(m, n, generator, power=0.7, rank=None, dtype=torch.float64, gap=None):
    """A random m × n matrix with singular values j^-power, of the given rank; a tenth of that after the first `gap`."""
    r = min(m, n)
    u, _ = torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64))
    s = torch.arange(1, r + 1, dtype=torch.float64) ** -power
    s[r if rank is None else rank :] = 0
    s[r if gap is None else gap :] /= 10
    return (u * s @ v.T).to(dtype)


SHAPES = {
    "tall.weight": (40, 24),
    "wide.weight": (20, 36),
    "square.weight": (30, 30),
    "thin.weight": (3, 50),
    "text_projection": (12, 12),
    "conv.weight": (6, 3, 4, 4),
    "norm.bias": (17,),
    "scale": (),
}


def zoo(tasks=4, dtype=torch.float64, seed=0):
    """base, finetuned: with an integer buffer and a frozen matrix."""
    g = torch.Generator().manual_seed(seed)
    base = {k: torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for k, shape in SHAPES.items()}
    base |= {"frozen.weight": torch.randn(9, 8, generator=g).to(dtype), "position_ids": torch.arange(5)}
    finetuned = {}
    for t in range(tasks):
        model = {}
        for name, weight in base.items():
            if name in ("frozen.weight", "position_ids"):
                model[name] = weight.clone()
            elif weight.dim() == 2:
                model[name] = (weight.double() + matrix(*weight.shape, g)).to(dtype)
            else:
                model[name] = (weight.double() + 0.1 * torch.randn(weight.shape, generator=g, dtype=torch.float64)).to(
                    dtype
                )
        finetuned[f"task{t}"] = model
    return base, finetuned


def close(got, expected, tolerance):
    """Relative Frobenius error of every tensor, with the names as they are."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        wanted = tensor.double()
        error = float((got[name].double() - wanted).norm())
        assert error <= tolerance * max(float(wanted.norm()), 1e-30), f"{name}: {error / float(wanted.norm())}"


def same(got, expected, dtype=None):
    """Equal to the bit; `got` is a model or a folder with one, floats of `expected` are first cast to `dtype`."""
    weights = read(got) if isinstance(got, Path) else got
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        wanted = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        assert torch.equal(weights[name], wanted), name


def model_of(deltas, dtype):
    return {"w": torch.zeros(deltas[0].shape, dtype=dtype)}, {f"t{i}": {"w": d.to(dtype)} for i, d in enumerate(deltas)}


def moments(base, tasks, seed=0):
    """Second moments (T, n, n) of random inputs for every matrix: what methods with inputs get."""
    g = torch.Generator().manual_seed(seed)
    rows = {
        name: torch.randn(tasks, 2 * w.shape[1], w.shape[1], generator=g) for name, w in base.items() if w.dim() == 2
    }
    return {name: x.mT @ x / x.shape[1] for name, x in rows.items()}
