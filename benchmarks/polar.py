"""Polar factors by eigenvectors of the Gram matrix (tsv_exp) and by polar-express iterations, paired in one process.

    OMP_NUM_THREADS=1 python benchmarks/polar.py --out benchmarks/results/polar.json

The matrices are the concatenated singular vectors of one ViT-B-32 block (benchmarks/merge_speed.py, spectrum `zoo`).
The iterations (arXiv 2505.16932) are given the smallest singular value, which in a merge nobody knows: each is the odd
quintic that is nearest to 1 on the interval that holds the singular values so far. They are matrix products only.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from merge_speed import BLOCK, models, show
from scipy.optimize import linprog
from torch import Tensor

from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.decompositions.fast_polar import gram_polar
from tsv_exp.decompositions.numerics import gram, times

ENOUGH = 1e-7  # distance from 1 at which iterations end


def coefficients(low: float) -> Iterator[tuple[float, float, float]]:
    """Minimax odd quintics a x + b x³ + c x⁵ for singular values in [low, 1], one after the other."""
    high, error = 1.0, 1.0
    while error > ENOUGH:
        x = np.concatenate([np.geomspace(low, high, 800), np.linspace(low, high, 800)])
        powers, one = np.stack([x, x**3, x**5], 1), np.ones((len(x), 1))
        limits = np.block([[powers, -one], [-powers, -one]]), np.concatenate([one[:, 0], -one[:, 0]])
        found = linprog([0, 0, 0, 1], *limits, bounds=[(None, None)] * 3 + [(0, None)]).x
        low, high, error = (powers @ found[:3]).min(), (powers @ found[:3]).max(), found[3]
        yield tuple(found[:3])


def polar_express(x: Tensor, quintics: list[tuple[float, float, float]]) -> Tensor:
    """The polar factor of x (m, n), m ≥ n, whose singular values are in the interval of the quintics."""
    for a, b, c in quintics:
        square = gram(x)
        x = a * x + times(x, b * square + c * gram(square))
    return x


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds, the best of three."""
    spent = []
    for _ in range(3):
        start = time.thread_time()
        work()
        spent.append(time.thread_time() - start)
    return min(spent)


def compare(x: Tensor) -> dict[str, object]:
    """Seconds and errors of both, for one matrix (m, n)."""
    left, values, right = torch.linalg.svd(x.double(), full_matrices=False)
    exact, low = left @ right, float(values[-1] / values[0])
    quintics = list(coefficients(0.9 * low))
    scaled = x / (1.0001 * values[0].float())

    def ours() -> Tensor:
        factors, good = gram_polar(x[None])
        assert good.all()
        return times(factors.u[0] * factors.s[0], factors.vh[0])

    error = [
        float((found.double() - exact).norm() / exact.norm()) for found in (ours(), polar_express(scaled, quintics))
    ]
    took = [seconds(ours), seconds(lambda: polar_express(scaled, quintics))]
    return {
        "shape": list(x.shape),
        "smallest_singular_value": low,
        "iterations": len(quintics),
        "seconds": {"tsv_exp": took[0], "polar_express": took[1]},
        "error": {"tsv_exp": error[0], "polar_express": error[1]},
        "ratio": took[1] / took[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    square, matrices = torch.randn(768, 768), []
    symmetric = gram(square)
    for tasks in (8, 20):
        _, finetuned = models(tasks, 1, "zoo")
        for name in BLOCK:
            deltas = torch.stack([model[f"blocks.0.{name}"] for model in finetuned.values()])
            factors = FastAlgebra().truncated_svd(deltas, min(deltas.shape[1:]) // tasks)
            for side in (torch.cat(list(factors.u), 1), torch.cat(list(factors.vh.mT), 1)):
                matrices.append({"tasks": tasks, "layer": name, **compare(side)})
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "product_of_768": seconds(lambda: times(square, square)),
        "eigenvectors_of_768": seconds(lambda: torch.linalg.eigh(symmetric)),
        "median_ratio": statistics.median(float(str(one["ratio"])) for one in matrices),
        "matrices": matrices,
    }
    show(result, args.out)


if __name__ == "__main__":
    main()
