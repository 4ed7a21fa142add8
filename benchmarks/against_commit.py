"""Processor time of merges against an older commit: both run in turn, with the same inputs and conditions.

    git worktree add --detach ../before COMMIT
    OMP_NUM_THREADS=1 python benchmarks/against_commit.py --before ../before --turns 7 --out against_commit.json

Two kinds of cases. From files: `tsv-merge` on synthetic checkpoints of ViT-B-32's image encoder (merge_memory.py). In
memory: `tsv_exp.merge` of the same, which is what `tsv-exp` does for the tables. Each turn runs a case with the old and
the new code, in an order that alternates. Processor time hardly depends on other load; the ratio of a case is the
median over turns, with the quartiles.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from merge_memory import models, vit

IN_MEMORY = """
import sys, time
from pathlib import Path
import tsv_exp
from tsv_exp.checkpoints.readers import read
from tsv_exp.config import Engine
base, *models = ({name: tensor.clone() for name, tensor in read(Path(path)).items()} for path in sys.argv[2:])
engine = Engine(exclude=["proj", "positional_embedding"])
start = time.process_time()
tsv_exp.merge(base, {f"t{i}": model for i, model in enumerate(models)}, sys.argv[1], engine=engine).vector()
print(time.process_time() - start)
"""
METHODS = ("tsv_m", "ties", "task_arithmetic", "iso_c", "iso_reg")


def files(root: Path, method: str, paths: list[Path], out: Path) -> float:
    """Processor seconds of tsv-merge, from the start of Python to its end."""
    words = [f"base={paths[0]}", f"models=[{','.join(map(str, paths[1:]))}]", f"out={out}", f"method={method}"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(root, "-m", "tsv_exp.merge_files", *words)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def memory(root: Path, method: str, paths: list[Path], _: Path) -> float:
    """Processor seconds of tsv_exp.merge alone."""
    return float(run(root, "-c", IN_MEMORY, method, *map(str, paths)))


def run(root: Path, *words: str) -> str:
    """The output of Python with the package of a working copy."""
    environment = os.environ | {"PYTHONPATH": str(root.resolve())}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="working copy of the older commit")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=2, help="of the image encoder's 12")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    roots, rows = (args.before, args.after), []
    with tempfile.TemporaryDirectory() as name:
        paths = models(Path(name), vit(768, args.blocks, 32, 50, 512), args.tasks, torch.float32)
        for kind in (files, memory):
            for method in args.methods:
                pairs = []
                for turn in range(args.turns):
                    pair: dict[Path, float] = {}
                    for place in roots[:: -1 if turn % 2 else 1]:
                        with tempfile.TemporaryDirectory() as out:
                            pair[place] = kind(place, method, paths, Path(out, "merged"))
                    pairs.append([pair[place] for place in roots])
                ratios = [after / before for before, after in pairs]
                low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
                rows.append({"kind": kind.__name__, "method": method, "seconds": pairs, "ratio": middle})
                before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(
                    f"{kind.__name__:<7}{method:<16}{before:8.2f} s{after:8.2f} s  "
                    f"ratio {middle:.3f} ({low:.3f} to {high:.3f})",
                    flush=True,
                )
    if args.out:
        args.out.write_text(json.dumps({"command": " ".join(["python", *sys.argv]), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
