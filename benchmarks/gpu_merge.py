"""Merges on a GPU, beside the textbook procedure (full SVDs) on the same card, and when it copies and computes.

    python benchmarks/gpu_merge.py --models vit_b_32:8 --more textbook error timeline files resident --out FILE
    python benchmarks/gpu_merge.py --draw FILE --picture docs/pictures/gpu_timeline.png

The models have the layer shapes of the real ones, or of their first BLOCKS alone, and task matrices with the spectrum
of merge_speed.py and random singular vectors; every fourth block has the same. They lie in the memory of the machine,
as a user's would, and so does the result. `--more` measures:

textbook: the textbook procedure with its matrices on the GPU, of one layer of every shape: a task's SVD and both SVDs
    of the concatenations, times how often they occur.
error: of both against the textbook procedure in float64, on one layer.
timeline: the intervals in which the GPU copied from the machine's memory (`copied`) and ran kernels (`computed`), in
    one more merge under the profiler.
files: the command tsv-merge, from files to a file.
resident: merges of models that lie on the GPU, where the result stays.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from merge_memory import llama, llama_8b, vit
from merge_memory import measured as command_cost
from merge_speed import drawing, reference, show
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import tsv_exp
from tsv_exp.config import Engine
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.storage.tensor_files import save

GPU = torch.device("cuda")
SHAPES = {
    "vit_b_32": vit(768, 12, 32, 50, 512),
    "vit_l_14": vit(1024, 24, 14, 257, 768),
    "llama": llama(24),
    "llama_8b": llama_8b(32),
}
DTYPES = {"llama": torch.bfloat16, "llama_8b": torch.bfloat16}
EXCLUDED = ["proj", "positional_embedding", "*embed_tokens*", "lm_head*"]  # averaged, by both procedures
ENGINE = Engine(exclude=EXCLUDED)
MORE = ("textbook", "error", "timeline", "files", "resident")
Interval = tuple[float, float]
Weights = dict[str, Tensor]


def drawn(name: str, tasks: int, blocks: int | None) -> tuple[Weights, dict[str, Weights]]:
    """A base of zeros and fine-tuned models in the memory of the machine; computed on the GPU."""
    draw = drawing("zoo", torch.Generator(GPU).manual_seed(0))
    dtype = DTYPES.get(name, torch.float32)
    shapes = {key: shape for key, shape in SHAPES[name].items() if blocks is None or 0 <= block(key) < blocks}

    def model() -> Weights:
        """Blocks beyond the fourth share the memory of earlier ones: to draw them all would take longest."""
        made = {key: draw(shape).to("cpu", dtype) for key, shape in shapes.items() if repeated(key) == key}
        return {key: made[repeated(key)] for key in shapes}

    base = {key: torch.zeros(shape, dtype=dtype) for key, shape in shapes.items()}
    return base, {f"task{t}": model() for t in range(tasks)}


def block(name: str) -> int:
    """The number of a parameter's block; -1 outside of the blocks."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def repeated(name: str) -> str:
    """The name of the same parameter in one of the first four blocks."""
    return re.sub(r"\.(\d+)\.", lambda found: f".{int(found[1]) % 4}.", name, count=1)


def timed(work: Callable[[], object]) -> float:
    """Seconds until the GPU has done its work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def svd_seconds(x: Tensor) -> float:
    """Seconds of a full SVD: the second."""
    return [timed(lambda: torch.linalg.svd(x, full_matrices=False)) for _ in range(2)][1]


def textbook_seconds(base: Weights, finetuned: dict[str, Weights], share: float) -> dict[str, float]:
    """Seconds of the textbook procedure's SVDs of all layers, by what they decompose, from one layer of every shape."""
    tasks, seconds = len(finetuned), {"task matrices": 0.0, "concatenations": 0.0}
    layers = Counter(weight.shape for name, weight in base.items() if weight.dim() == 2 and not matches(name, EXCLUDED))
    g = torch.Generator(GPU).manual_seed(1)
    for shape, count in layers.items():
        name = next(key for key, weight in base.items() if weight.shape == shape and not matches(key, EXCLUDED))
        first = finetuned["task0"][name].to(GPU).float()
        seconds["task matrices"] += count * tasks * svd_seconds(first)
        width = int(share * min(shape)) * tasks
        for rows in shape:
            columns = torch.randn(rows, width, generator=g, device=GPU) / rows**0.5
            seconds["concatenations"] += count * svd_seconds(columns)
    return seconds


def errors(base: Weights, finetuned: dict[str, Weights], merged: Merged) -> dict[str, float]:
    """Relative errors of our result and of the textbook procedure in float32 against it in float64, in one layer."""
    square = next(n for n, w in base.items() if w.dim() == 2 and w.shape[0] == w.shape[1] and not matches(n, EXCLUDED))
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


def from_files(base: Weights, finetuned: dict[str, Weights]) -> dict[str, float]:
    """Seconds and memory of the command tsv-merge from files to a file, with the start of Python."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, weights in {"base": base, **finetuned}.items():
            save(folder / f"{name}.safetensors", weights)
        left_out = [pattern for pattern in EXCLUDED if any(matches(name, [pattern]) for name in base)]
        models = ",".join(f"{folder}/{task}.safetensors" for task in finetuned)
        command = [sys.executable, "-m", "tsv_exp.merge_files", f"base={folder}/base.safetensors", f"models=[{models}]"]
        command += [f"out={folder}/out", "device=cuda", f"exclude=[{','.join(map(repr, left_out))}]"]
        return command_cost(command)


def measured(
    word: str, methods: Sequence[str], turns: int, more: Collection[str], share: float | None
) -> dict[str, Any]:
    """The figures of one set of models; `share`: the rank fraction of TSV-M, None for its default."""
    name, tasks, *blocks = word.split(":")
    base, finetuned = drawn(name, int(tasks), int(blocks[0]) if blocks else None)
    result: dict[str, Any] = {"blocks": 1 + max(map(block, base))}
    result["gigabytes"] = sum(map(size, [base, *finetuned.values()])) / 1e9
    first = {key: weight for key, weight in base.items() if ".0." in key}
    for method in methods:  # loads the libraries and their kernels
        models = {task: {key: model[key] for key in first} for task, model in finetuned.items()}
        tsv_exp.merge(first, models, method, device=GPU)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    merge = partial(tsv_exp.merge, base, finetuned, engine=ENGINE, device=GPU)
    kept: list[Merged] = []

    def take(method: str) -> None:
        params: dict[str, Any] = {"rank_fraction": share} if share else {}
        kept[1:] = [merge(method, **params)]

    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(turns):
        for method in methods:
            seconds[method].append(timed(partial(take, method)))
            if len(kept) == 1:
                result["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    result["seconds"] = {method: statistics.median(values) for method, values in seconds.items()}
    result |= {"all_seconds": seconds, "fallbacks": kept[0].fallbacks}
    if "textbook" in more:
        result["textbook_seconds"] = textbook_seconds(base, finetuned, share or 1 / len(finetuned))
    if "error" in more:
        result["error"] = errors(base, finetuned, kept[0])
    if "timeline" in more:
        result["timeline"] = timeline(partial(merge, methods[0]))
    if "files" in more:
        result["from_files"] = from_files(base, finetuned)
    if "resident" in more:
        base = {key: weight.to(GPU) for key, weight in base.items()}
        finetuned = {task: {key: weight.to(GPU) for key, weight in model.items()} for task, model in finetuned.items()}
        merge = partial(tsv_exp.merge, base, finetuned, engine=ENGINE)
        result["resident_seconds"] = {method: timed(partial(merge, method)) for method in methods}
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
    parser.add_argument(
        "--models", nargs="+", default=["vit_b_32:8"], help=f"NAME:TASKS[:BLOCKS] of {', '.join(SHAPES)}"
    )
    parser.add_argument("--methods", nargs="+", default=["tsv_m"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rank-fraction", type=float, help="of the only method, tsv_m; default: 1 / tasks")
    parser.add_argument("--more", nargs="*", default=["textbook"], choices=MORE, help="what else to measure")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", type=Path, help="results to draw, instead of measuring")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.draw:
        draw(args.draw, args.picture)
        return
    if not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device")
    models: dict[str, Any] = {}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "models": models,
    }
    for word in args.models:
        models[word] = measured(word, args.methods, args.turns, args.more, args.rank_fraction)
        show(result, args.out)


if __name__ == "__main__":
    main()
