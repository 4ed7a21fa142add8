"""How much of a merge from files is reading: task arithmetic and TIES beside dd, which reads the same files.

    OMP_NUM_THREADS=2 python benchmarks/reading.py --tasks 8 --turns 3 --out reading.json

Synthetic ViT-B-32 image encoders (merge_memory.py), once with the files in the page cache (warm) and once after the
kernel was asked to drop them from it (cold). A turn runs dd on all files, then each merge. The seconds of a merge
contain the start of Python and torch, which is measured with a model of one small layer. Cold ones also contain the
digests of the files for the model card; later merges of the same files know them. `gb_per_second` is the size of all
files over the seconds without the start: TIES reads every file twice, once for its thresholds and once to merge.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from merge_memory import TSV_MERGE, VIT, models

METHODS = ("task_arithmetic", "ties")


def dropped(paths: Sequence[Path]) -> None:
    """Ask the kernel to drop these files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd(paths: Sequence[Path]) -> float:
    """Seconds of dd on all files."""
    start = time.perf_counter()
    for path in paths:
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M"], check=True, capture_output=True)
    return time.perf_counter() - start


def merge(method: str, paths: Sequence[Path], cache: Path) -> float:
    """Seconds of tsv-merge, from the start of Python to its end."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as out:
        words = [f"base={paths[0]}", f"models=[{','.join(map(str, paths[1:]))}]", f"out={out}/merged"]
        start = time.perf_counter()
        subprocess.run(
            [TSV_MERGE, f"method={method}", *words],
            env=os.environ | {"TSV_EXP_CACHE": str(cache)},
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, small = Path(name) / "vit", Path(name) / "small"
        folder.mkdir()
        small.mkdir()
        paths = models(folder, VIT, args.tasks, torch.float32)
        start = models(small, {"layer.weight": (64, 64)}, args.tasks, torch.float32)
        size = sum(path.stat().st_size for path in paths)
        for turn in range(args.turns):
            for state in ("cold", "warm"):
                for work in ("dd", *METHODS):
                    if state == "cold":
                        dropped(paths)
                    took = dd(paths) if work == "dd" else merge(work, paths, Path(name) / f"cache_{work}{turn}")
                    seconds.setdefault(f"{work}, {state}", []).append(took)
            seconds.setdefault("start", []).append(merge("task_arithmetic", start, Path(name) / "cache"))
    begin = statistics.median(seconds["start"])
    rows: dict[str, dict[str, Any]] = {}
    for work, spent in seconds.items():
        middle = statistics.median(spent)
        reading = middle - (0 if work.startswith("dd") else begin)
        rows[work] = {"seconds": middle, "all_seconds": spent}
        if work != "start":
            rows[work]["gb_per_second"] = size / 1e9 / reading
        print(f"{work:<24}{middle:7.2f} s  {rows[work].get('gb_per_second', math.nan):6.2f} GB/s", flush=True)
    if args.out:
        command = " ".join(["python", *sys.argv])
        args.out.write_text(json.dumps({"command": command, "gigabytes": size / 1e9, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
