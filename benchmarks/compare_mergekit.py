"""The same checkpoints merged by tsv-merge and by mergekit: time, peak anonymous memory, how far the results differ.

    OMP_NUM_THREADS=2 python benchmarks/compare_mergekit.py --mergekit VENV/bin/mergekit-pytorch --out result.json

mergekit is not a dependency: install it separately (python -m venv VENV; VENV/bin/pip install mergekit). The models are
random ViT-B-32 image encoders in float32, each a .safetensors file. Task arithmetic is the same in both. mergekit's
TIES trims tensor by tensor, ours over the whole task vector as in the paper; without trimming (density 1) they agree
wherever the entries do not cancel. TSV-M, which mergekit lacks, is added. Each case runs --turns times, alternating
between ours and theirs; reported are the run of median time and all times.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from merge_memory import TSV_MERGE, VIT, measured, models
from safetensors import safe_open

# ours: options of tsv-merge; theirs: method and parameters of mergekit; same: whether the definitions agree
CASES: list[dict[str, Any]] = [
    {"ours": "task_arithmetic alpha=0.3", "theirs": ("task_arithmetic", {"lambda": 0.3}, {}), "same": True},
    {"ours": "ties density=0.2", "theirs": ("ties", {}, {"density": 0.2}), "same": False},
    {"ours": "ties density=1.0", "theirs": ("ties", {}, {"density": 1.0}), "same": True},
    {"ours": "tsv_m", "theirs": None, "same": False},
]


def configuration(paths: list[Path], method: str, shared: dict[str, float], each: dict[str, float]) -> str:
    """The YAML (as JSON) that mergekit reads."""
    return json.dumps(
        {
            "merge_method": method,
            "base_model": str(paths[0]),
            "parameters": shared,
            "models": [{"model": str(path), "parameters": {"weight": 1.0, **each}} for path in paths[1:]],
        }
    )


def median(runs: list[dict[str, float]]) -> dict[str, Any]:
    """The run of median time, with the seconds of all runs in order."""
    ordered = sorted(runs, key=lambda run: run["seconds"])
    return ordered[(len(runs) - 1) // 2] | {"all_seconds": [run["seconds"] for run in runs]}


def difference(folders: Iterable[Path], base: Path) -> float:
    """‖ours − theirs‖ over ‖theirs − base‖, all tensors together; the folders are ours and theirs."""
    squares = torch.zeros(2, dtype=torch.float64)
    found = [safe_open(next(folder.glob("*.safetensors")), "pt") for folder in folders]
    start = safe_open(base, "pt")
    for name in start.keys():  # noqa: SIM118 (not a mapping)
        a, b, c = (file.get_tensor(name).double() for file in (*found, start))
        squares += torch.stack([(a - b).square().sum(), (b - c).square().sum()])
    return float((squares[0] / squares[1]).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, required=True, help="the command mergekit-pytorch of its environment")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the models are written; default: a temporary folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        paths = models(folder, VIT, args.tasks, torch.float32)
        for number, case in enumerate(CASES):
            out = [folder / f"{side}{number}" for side in ("ours", "theirs")]
            method, *options = case["ours"].split()
            words = [f"base={paths[0]}", f"models=[{','.join(map(str, paths[1:]))}]", f"out={out[0]}", *options]
            commands = {"ours": [TSV_MERGE, f"method={method}", "shard_mb=1024", *words]}
            if case["theirs"]:
                file = folder / f"config{number}.yml"
                file.write_text(configuration(paths, *case["theirs"]))
                commands["mergekit"] = [str(args.mergekit), "--quiet", "--allow-crimes", str(file), str(out[1])]
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in commands}
            for _ in range(args.turns):
                for one in out:
                    shutil.rmtree(one, ignore_errors=True)
                for side, command in commands.items():
                    runs[side].append(measured(command))
            result: dict[str, Any] = {"method": case["ours"], "tasks": args.tasks}
            result |= {side: median(done) for side, done in runs.items()}
            if case["theirs"]:
                result["speedup"] = result["mergekit"]["seconds"] / result["ours"]["seconds"]
                key = "difference" if case["same"] else "difference_of_definitions"
                result[key] = difference(out, paths[0])
            result |= {"threads": int(os.environ.get("OMP_NUM_THREADS", 0)), "torch": torch.__version__}
            print(json.dumps(result), flush=True)
            results.append(result)
    if args.out:
        typed = " ".join(["python", *sys.argv]).replace(str(args.mergekit), "VENV/bin/mergekit-pytorch")
        args.out.write_text(json.dumps({"command": typed, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
