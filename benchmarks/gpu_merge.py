"""Merges on a GPU, beside the textbook procedure (full SVDs) on the same card, and when it copies and computes.

    python benchmarks/gpu_merge.py --models vit_b_32:8 vit_l_14:20 llama:4 --out benchmarks/results/gpu_merge.json
    python benchmarks/gpu_merge.py --draw benchmarks/results/gpu_merge.json --picture docs/pictures/gpu_timeline.png

The models have the layer shapes of the real ones, and task matrices with the spectrum of merge_speed.py and random
singular vectors. They lie in the memory of the machine, as a user's would, and so does the result; `resident` has
models and result on the GPU. The textbook procedure has its matrices on the GPU, and is measured on one layer of every
shape: a task's SVD and both SVDs of the concatenations, multiplied by how often they occur. `error` compares both with
the textbook procedure in float64, on one layer. `copied` and `computed` are the intervals in which the GPU copied from
the machine's memory and ran kernels, in one more merge under the profiler.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from merge_memory import llama, vit
from merge_speed import reference, show, spectrum
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import tsv_exp
from tsv_exp.config import Engine
from tsv_exp.merging.engine import Merged

GPU = torch.device("cuda")
SHAPES = {"vit_b_32": vit(768, 12, 32, 50, 512), "vit_l_14": vit(1024, 24, 14, 257, 768), "llama": llama(24)}
DTYPES = {"llama": torch.bfloat16}
EXCLUDED = ["proj", "positional_embedding", "*embed_tokens*"]  # averaged, by both procedures
ENGINE = Engine(exclude=EXCLUDED)
Interval = tuple[float, float]
Weights = dict[str, Tensor]


def drawn(name: str, tasks: int) -> tuple[Weights, dict[str, Weights]]:
    """A base of zeros and fine-tuned models in the memory of the machine; computed on the GPU."""
    g = torch.Generator(GPU).manual_seed(0)
    shapes, dtype = SHAPES[name], DTYPES.get(name, torch.float32)
    orthonormal: dict[tuple[int, int], Tensor] = {}

    def vectors(rows: int, columns: int) -> Tensor:
        """Random orthonormal columns, as in merge_speed.py."""
        if (rows, columns) not in orthonormal:
            orthonormal[rows, columns] = torch.linalg.qr(torch.randn(rows, columns, generator=g, device=GPU)).Q
        q = orthonormal[rows, columns][:, torch.randperm(columns, generator=g, device=GPU)]
        q = q * (torch.randint(0, 2, (rows, 1), generator=g, device=GPU) * 2 - 1)
        w = torch.nn.functional.normalize(torch.randn(rows, 1, generator=g, device=GPU), dim=0)
        return q - 2 * w @ (w.mT @ q)

    def weight(shape: tuple[int, ...]) -> Tensor:
        if len(shape) != 2 or max(shape) > 4 * 8192:
            found = torch.randn(shape, generator=g, device=GPU) * 1e-3
        else:
            r = min(shape)
            found = (vectors(shape[0], r) * spectrum("zoo", r).to(GPU)) @ vectors(shape[1], r).mT
        return found.to("cpu", dtype)

    base = {key: torch.zeros(shape, dtype=dtype) for key, shape in shapes.items()}
    return base, {f"task{t}": {key: weight(shape) for key, shape in shapes.items()} for t in range(tasks)}


def timed(work: Callable[[], object]) -> float:
    """Seconds until the GPU has done its work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def svd_seconds(x: Tensor, repeat: int = 2) -> float:
    """Seconds of a full SVD: the best, after one that warms up."""
    return min(timed(lambda: torch.linalg.svd(x, full_matrices=False)) for _ in range(1 + repeat))


def textbook_seconds(base: Weights, finetuned: dict[str, Weights]) -> dict[str, float]:
    """Seconds of the textbook procedure's SVDs of all layers, by what they decompose, from one layer of every shape."""
    tasks, seconds = len(finetuned), {"task matrices": 0.0, "concatenations": 0.0}
    layers = Counter(weight.shape for name, weight in base.items() if weight.dim() == 2 and not excluded(name))
    g = torch.Generator(GPU).manual_seed(1)
    for shape, count in layers.items():
        name = next(key for key, weight in base.items() if weight.shape == shape and not excluded(key))
        first = finetuned["task0"][name].to(GPU).float()
        seconds["task matrices"] += count * tasks * svd_seconds(first)
        width = min(shape) // tasks * tasks
        for rows in shape:
            columns = torch.randn(rows, width, generator=g, device=GPU) / rows**0.5
            seconds["concatenations"] += count * svd_seconds(columns, 1)
    return seconds


def excluded(name: str) -> bool:
    """Whether a 2-D parameter is averaged."""
    return any(fnmatchcase(name, pattern) for pattern in EXCLUDED)


def errors(base: Weights, finetuned: dict[str, Weights], merged: Merged) -> dict[str, float]:
    """Relative errors of our result and of the textbook procedure in float32 against it in float64, in one layer."""
    square = next(n for n, w in base.items() if w.dim() == 2 and w.shape[0] == w.shape[1] and not excluded(n))
    layer = {square: base[square].to(GPU).float()}
    models = {task: {square: model[square].to(GPU).float()} for task, model in finetuned.items()}
    exact = reference(layer, models, torch.float64)[square]
    found = {"ours": merged.vector()[square].to(GPU), "textbook": reference(layer, models, torch.float32)[square]}
    return {name: float((tau - exact).norm() / exact.norm()) for name, tau in found.items()}


def timeline(work: Callable[[], object]) -> dict[str, Any]:
    """When the GPU copied from the machine's memory and when it ran kernels, in seconds from the first of both.

    Also the seconds of the kernels that took longest.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    found: dict[str, list[Interval]] = {"copied": [], "computed": []}
    kernels: Counter[str] = Counter()
    for event in events:
        kind = "computed" if event.get("cat") == "kernel" else "copied" if "HtoD" in event.get("name", "") else None
        if kind:
            found[kind].append((event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6))
        if kind == "computed":
            kernels[event["name"][:80]] += event["dur"] / 1e6
    joined = {kind: union(intervals) for kind, intervals in found.items()}
    start = min(intervals[0][0] for intervals in joined.values())
    return {
        "seconds_copied": length(joined["copied"]),
        "seconds_computed": length(joined["computed"]),
        "seconds_both": length(both(*joined.values())),
        "kernels": len(found["computed"]),
        "longest_kernels": dict(kernels.most_common(12)),
        **{kind: shortened(intervals, start) for kind, intervals in joined.items()},
    }


def both(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """What lies in two unions."""
    found, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found


def union(intervals: Sequence[Interval]) -> list[Interval]:
    """The intervals in order, those that overlap as one."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def length(intervals: Sequence[Interval]) -> float:
    """Their sum."""
    return sum(end - start for start, end in intervals)


def shortened(intervals: Sequence[Interval], start: float) -> list[Interval]:
    """Relative to the start, with gaps below a millisecond closed: what a picture can show."""
    closed = union([(a - start, b - start + 1e-3) for a, b in intervals])
    return [(round(a, 4), round(b - 1e-3, 4)) for a, b in closed]


def measured(name: str, tasks: int, methods: Sequence[str], turns: int, textbook: bool) -> dict[str, Any]:
    """The figures of one set of models."""
    base, finetuned = drawn(name, tasks)
    result: dict[str, Any] = {"tasks": tasks, "gigabytes": sum(map(size, [base, *finetuned.values()])) / 1e9}
    merge = partial(tsv_exp.merge, base, finetuned, engine=ENGINE, device=GPU)
    first = {key: weight for key, weight in base.items() if ".0." in key}
    for method in methods:  # loads the libraries and their kernels
        tsv_exp.merge(first, {task: {key: model[key] for key in first} for task, model in finetuned.items()}, method)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    merged = merge(methods[0])
    result |= {"peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9, "fallbacks": merged.fallbacks}
    result["error"] = errors(base, finetuned, merged) if textbook else {}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(turns):
        for method in methods:
            seconds[method].append(timed(partial(merge, method)))
    result["seconds"] = {method: statistics.median(values) for method, values in seconds.items()}
    result["all_seconds"] = seconds
    result["timeline"] = timeline(partial(merge, methods[0]))
    if textbook:
        result["textbook_seconds"] = textbook_seconds(base, finetuned)
    base = {key: weight.to(GPU) for key, weight in base.items()}
    finetuned = {task: {key: weight.to(GPU) for key, weight in model.items()} for task, model in finetuned.items()}
    merge = partial(tsv_exp.merge, base, finetuned, engine=ENGINE)
    result["resident"] = {method: min(timed(partial(merge, method)) for _ in range(2)) for method in methods}
    return result


def size(weights: Weights) -> int:
    """Bytes."""
    return sum(weight.numel() * weight.element_size() for weight in weights.values())


def draw(results: Path, picture: Path) -> None:
    """A picture of the timelines."""
    import matplotlib.pyplot as plt

    found = json.loads(results.read_text())["models"]
    figure, axes = plt.subplots(len(found), 1, figsize=(8, 1.3 * len(found) + 0.5), layout="constrained", squeeze=False)
    for axis, (name, entry) in zip(axes.flat, found.items(), strict=True):
        for row, kind in enumerate(("computed", "copied")):
            spans = [(start, end - start) for start, end in entry["timeline"][kind]]
            axis.broken_barh(spans, (row - 0.4, 0.8), color=f"C{row}")
        axis.set_yticks([0, 1], ["computing", "copying"])
        axis.set_title(name, fontsize="medium")
    axes.flat[-1].set_xlabel("seconds")
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_b_32:8"], help=f"NAME:TASKS of {', '.join(SHAPES)}")
    parser.add_argument("--methods", nargs="+", default=["tsv_m"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-textbook", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", type=Path, help="results to draw, instead of measuring")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.draw:
        draw(args.draw, args.picture)
        return
    models: dict[str, Any] = {}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "models": models,
    }
    for word in args.models:
        name, _, tasks = word.partition(":")
        models[word] = measured(name, int(tasks), args.methods, args.turns, not args.no_textbook)
        show(result, args.out)


if __name__ == "__main__":
    main()
