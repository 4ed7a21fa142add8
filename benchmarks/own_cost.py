"""The cost of iso_reg and white_reg relative to TSV-M: blocks of ViT-B-32 merged alternately, and iso_reg's products.

    OMP_NUM_THREADS=2 python benchmarks/own_cost.py --tasks 8 --blocks 12 --turns 3 --out own_cost.json

The models are those of merge_speed.py. processor seconds are reported too: other load affects them less.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from merge_speed import BLOCK, models, rate, show
from torch import Tensor

import tsv_exp
from tsv_exp.config import Engine

METHODS = ("iso_reg", "tsv_m", "white_reg")
ENGINE = Engine(exclude=["proj", "positional_embedding"])


def floor(tasks: int, blocks: int) -> float:
    """Flops of iso_reg's products (half for a Gram matrix)."""
    flops = 0.0
    for shape in BLOCK.values():
        m, n = max(shape), min(shape)
        flops += tasks * (m * n**2 + 2 * m * n**2)  # Gram matrices of D_i; R
        flops += tasks * (2 * m * n**2 + n**3)  # Qᵀ D_i and their Gram matrices
        flops += 4 * m * n**2 - 4 * n**3 / 3  # QR of R, with Q
        flops += 2 * n**3 / 3 + 2 * m * n**2 + 2 * n**3 + 2 * m * n**2  # two factors, two solves, and Q times one
        flops += (m + n) * n**2 + 2 * n**3 + 2 * (m + n) * n**2  # polar factor: Gram matrix, inverse root, product
    return blocks * flops


def error(tau: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest relative Frobenius error of a layer."""
    return max(float((tau[name] - exact[name]).norm() / exact[name].norm()) for name in exact if exact[name].any())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--accuracy", action="store_true", help="compare one block with float64 too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, finetuned = models(args.tasks, args.blocks, "zoo")
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    cpu: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(args.turns):
        for name in METHODS:
            start, used = time.perf_counter(), time.process_time()
            merged = tsv_exp.merge(base, finetuned, name, engine=ENGINE)
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
            if name == METHODS[0]:
                own = merged
    flops = rate()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "cpu_seconds": {name: statistics.median(values) for name, values in cpu.items()},
        "floor_seconds": floor(args.tasks, args.blocks) / flops,
        "gflops": flops / 1e9,
    }
    if args.accuracy:
        block = [name for name in base if name.startswith("blocks.0.")]
        double = {name: base[name].double() for name in block}
        models64 = {task: {name: model[name].double() for name in block} for task, model in finetuned.items()}
        exact = tsv_exp.merge(double, models64, METHODS[0], engine=Engine(svd="exact")).vector()
        result["error"] = error({name: tau.double() for name, tau in own.vector().items()}, exact)
    show(result, args.out)


if __name__ == "__main__":
    main()
