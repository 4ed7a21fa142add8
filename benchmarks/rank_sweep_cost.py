"""The cost of a sweep over rank fractions and α, without polar factors and products, in units of full SVDs.

    OMP_NUM_THREADS=1 python benchmarks/rank_sweep_cost.py --tasks 8 --blocks 1 --out rank_sweep_cost.json

TSV-M of the ViT-B-32 image encoder's layer shapes at its default rank and at 0.1, 0.2 … 1.0, each applied with 30
values of α, with `engine.cache=memory`. Measured in processor seconds, and compared with one full SVD of every
task matrix.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from merge_speed import Stages, models, show

import tsv_exp
from tsv_exp.config import Engine
from tsv_exp.decompositions import fast

FRACTIONS = [None, *(i / 10 for i in range(1, 11))]
ALPHAS = [i / 10 for i in range(1, 31)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--spectrum", default="zoo", help="zoo, or the exponent of a power law such as 0.5")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, finetuned = models(args.tasks, args.blocks, args.spectrum)
    matrices = [name for name, weight in base.items() if weight.dim() == 2]
    start = time.process_time()
    for model in finetuned.values():
        for name in matrices:
            torch.linalg.svd(model[name], full_matrices=False)
    once = time.process_time() - start
    stages = Stages()
    start = time.process_time()
    with ExitStack() as stack:
        stages.watch(stack, fast.FastAlgebra, ("truncated_svd", "polar"))
        for fraction in FRACTIONS:
            merged = tsv_exp.merge(base, finetuned, "tsv_m", engine=Engine(cache="memory"), rank_fraction=fraction)
            for alpha in ALPHAS:
                tsv_exp.apply(base, merged, alpha)
    total = time.process_time() - start
    result = {
        "command": " ".join(["python", *sys.argv]),
        "tasks": args.tasks,
        "blocks": args.blocks,
        "merges": len(FRACTIONS) * len(ALPHAS),
        "cpu_seconds_of_one_full_decomposition": once,
        "cpu_seconds": total,
        "cpu_seconds_of_decompositions": stages.seconds["truncated_svd"],
        "cpu_seconds_of_polar_factors": stages.seconds["polar"],
        "cpu_seconds_of_products_and_the_rest": total - sum(stages.seconds.values()),
        "full_decompositions": stages.seconds["truncated_svd"] / once,
        "torch": torch.__version__,
    }
    show(result, args.out)


if __name__ == "__main__":
    main()
