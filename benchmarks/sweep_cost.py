"""The cost of a sweep besides forward passes: 10 rank fractions × 30 α on the embedded benchmark, and one run.

    python benchmarks/sweep_cost.py --out benchmarks/results/sweep_cost.json    (nothing else may run)

Both are a user's commands, with the fine-tuned models cached and nothing else. A validation pass is measured
separately: all validation images through the encoder and the heads. The requirement: the sweep without its 300 passes
takes at most 3 times as long as one tsv_m run without its 30; --help and a mistyped option answer within 2 seconds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from merge_speed import show
from omegaconf import DictConfig

import tsv_exp.commands.exp  # noqa: F401 - registers the configuration schema
from tsv_exp import merge
from tsv_exp.config import conf_dir
from tsv_exp.evaluation.inputs import load_inputs
from tsv_exp.storage.files import cache_dir

PASSES = {"run": 30, "sweep": 300}
COMMANDS = {"run": ["method=tsv_m"], "sweep": ["experiment=alpha_rank_heatmap"]}


def command(*arguments: str, cache: Path | None = None, code: int = 0) -> float:
    """Seconds that tsv-exp takes."""
    environment = {**os.environ, **({"TSV_EXP_CACHE": str(cache)} if cache else {})}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tsv_exp.commands.exp", *arguments], env=environment, capture_output=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise SystemExit(f"tsv-exp {' '.join(arguments)}: {done.stderr.decode()}")
    return seconds


def configuration(options: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=["method=tsv_m", *options])


def validation_pass(options: Sequence[str], times: int = 7) -> float:
    """Seconds of one pass over all validation images, without caches."""
    _, base, finetuned, _, evaluator, _ = load_inputs(configuration(options))
    merged = merge(base, finetuned, "weight_average")
    evaluator._load_vector(merged, next(iter(evaluator.tasks)))
    seconds = []
    for i in range(times):
        start = time.perf_counter()
        evaluator._set_alpha(1 + i / times)
        for name in evaluator.tasks:
            evaluator._forward(evaluator._predictor(name), evaluator._split(name, "validation"), name)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first draws the images


def measured(kind: str, options: Sequence[str], zoo: Path) -> dict[str, Any]:
    """The command's seconds, with the stages reported by its runs."""
    with tempfile.TemporaryDirectory() as folder:
        cache, outputs = Path(folder) / "cache", Path(folder) / "outputs"
        cache.mkdir()
        (cache / "tiny").symlink_to(zoo)
        total = command(*COMMANDS[kind], *options, f"paths.outputs={outputs}", cache=cache)
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in outputs.rglob("results.json")]
    passes = sum(len(run["validation"]) for run in runs)
    assert passes == PASSES[kind], f"{kind}: {passes} validation passes, expected {PASSES[kind]}"
    stages = {stage: sum(run["seconds"][stage] for run in runs) for stage in runs[0]["seconds"]}
    return {"seconds": total, "runs": len(runs), "passes": passes, "stages": stages}


def shares(kind: Mapping[str, Any], one_pass: float) -> dict[str, float]:
    """Parts of the time: forward passes on validation, merging, other scoring, loading, and everything around runs."""
    stages, total = kind["stages"], kind["seconds"]
    passes = kind["passes"] * one_pass
    parts = {
        "validation_passes": passes,
        "merging": stages["merge"],
        "other_scoring": stages["select"] - passes + stages["test"],
        "loading": stages["load"],
    }
    parts["overhead"] = total - sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", default=["tasks=8"], help="of tsv-exp, for both (default: tasks=8)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = ["model=tiny", *args.options]
    one_pass = validation_pass(options)  # trains what is not trained yet
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "validation_pass": one_pass,
    }
    for kind in COMMANDS:
        found = measured(kind, options, cache_dir() / "tiny")
        found["seconds_less_passes"] = found["seconds"] - found["passes"] * one_pass
        result[kind] = found | {"shares": shares(found, one_pass)}
    result["ratio"] = result["sweep"]["seconds_less_passes"] / result["run"]["seconds_less_passes"]
    result["help"] = statistics.median(command("--help") for _ in range(3))
    result["config_error"] = statistics.median(command("method=none_of_these", code=1) for _ in range(3))
    show(result, args.out)
    return 0 if result["ratio"] <= 3 and max(result["help"], result["config_error"]) < 2 else 1


if __name__ == "__main__":
    sys.exit(main())
