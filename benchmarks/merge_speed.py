"""How fast TSV-M merges ViT-B-32 image encoders, against the textbook procedure (full SVDs), paired in one process.

    OMP_NUM_THREADS=2 python benchmarks/merge_speed.py --tasks 8 --spectrum zoo --pairs 3 --out merge_speed.json

The layer shapes are the encoder's; the spectrum of the task matrices is an option: `zoo` is the mean spectrum of the
embedded benchmark's fine-tuned models, interpolated to size, as measured when this script was written.
"""

import argparse
import json
import operator
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock, local
from unittest.mock import patch

import torch
from torch import Tensor

import tsv_exp
from tsv_exp.config import Engine
from tsv_exp.decompositions import fast, fast_polar, krylov
from tsv_exp.decompositions.numerics import times

BLOCK = {"attn.in_proj_weight": (2304, 768), "attn.out_proj.weight": (768, 768)}
BLOCK |= {"mlp.c_fc.weight": (3072, 768), "mlp.c_proj.weight": (768, 3072)}
OTHERS = {"conv1.weight": (768, 3, 32, 32), "positional_embedding": (50, 768), "proj": (768, 512)}
EXCLUDED = ["proj", "positional_embedding"]  # averaged, by both procedures
# Singular values relative to the largest, at these fractions of their number.
ZOO = {0.0: 1, 0.01: 0.83, 0.05: 0.36, 0.1: 0.19, 0.125: 0.155, 0.1875: 0.116, 0.25: 0.095, 0.4: 0.07}
ZOO |= {0.5: 0.058, 0.75: 0.038, 0.99: 0.02, 1.0: 0.015}


def spectrum(kind: str, count: int) -> Tensor:
    """`count` descending values: `zoo`, or a power law j^-kind."""
    if kind != "zoo":
        return torch.arange(1, count + 1) ** -float(kind)
    shares, values = torch.tensor(list(ZOO)), torch.tensor(list(ZOO.values())).log()
    points = torch.linspace(0, 1, count)
    right = torch.searchsorted(shares, points).clamp(1, len(shares) - 1)
    weight = (points - shares[right - 1]) / (shares[right] - shares[right - 1])
    return torch.lerp(values[right - 1], values[right], weight).exp()


def drawing(kind: str, g: torch.Generator) -> Callable[[tuple[int, ...]], Tensor]:
    """A function that draws deltas of a shape: matrices with this spectrum and random singular vectors, else noise."""
    orthonormal: dict[tuple[int, int], Tensor] = {}

    def vectors(rows: int, columns: int) -> Tensor:
        """Random orthonormal columns: one decomposition per size, then signs, an order and a reflection of its own."""
        if (rows, columns) not in orthonormal:
            orthonormal[rows, columns] = torch.linalg.qr(torch.randn(rows, columns, generator=g, device=g.device)).Q
        q = orthonormal[rows, columns][:, torch.randperm(columns, generator=g, device=g.device)]
        q = q * (torch.randint(0, 2, (rows, 1), generator=g, device=g.device) * 2 - 1)
        w = torch.nn.functional.normalize(torch.randn(rows, 1, generator=g, device=g.device), dim=0)
        return q - 2 * w @ (w.mT @ q)

    def delta(shape: tuple[int, ...]) -> Tensor:
        if len(shape) != 2:
            return torch.randn(shape, generator=g, device=g.device) * 1e-3
        r = min(shape)
        return (vectors(shape[0], r) * spectrum(kind, r).to(g.device)) @ vectors(shape[1], r).mT

    return delta


def models(tasks: int, blocks: int, kind: str) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A base of zeros, and fine-tuned models whose matrices have this spectrum and random singular vectors."""
    delta = drawing(kind, torch.Generator().manual_seed(0))
    shapes = {f"blocks.{i}.{name}": shape for i in range(blocks) for name, shape in BLOCK.items()} | OTHERS
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return base, {f"task{t}": {name: delta(shape) for name, shape in shapes.items()} for t in range(tasks)}


def reference(base: Mapping[str, Tensor], finetuned: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> dict:
    """The textbook procedure: full SVDs of every task matrix and of both concatenations."""
    merged = {}
    for name, weight in base.items():
        deltas = [model[name].to(dtype) - weight.to(dtype) for model in finetuned.values()]
        if weight.dim() != 2 or name in EXCLUDED:
            merged[name] = torch.stack(deltas).mean(0)
            continue
        k = min(weight.shape) // len(deltas)
        parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
        u, s, vh = (
            torch.cat([part[i][..., :k] if i < 2 else part[i][:k] for part in parts], d)
            for i, d in enumerate((1, 0, 0))
        )
        (pu, _, qu), (pv, _, qv) = (torch.linalg.svd(x, full_matrices=False) for x in (u, vh))
        merged[name] = (pu @ qu * s) @ (pv @ qv)
    return merged


class Stages:
    """Processor seconds of all threads inside functions of a module or class, without watched callees."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock, self._thread = Lock(), local()

    def watch(self, stack: ExitStack, owner: object, names: Sequence[str]) -> None:
        for name in names:
            stack.enter_context(patch.object(owner, name, self._timed(name, getattr(owner, name))))

    def _timed(self, name: str, function: Callable) -> Callable:
        def timed(*args: object, **kwargs: object) -> object:
            before, self._thread.inner = getattr(self._thread, "inner", 0.0), 0.0
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time() - start
                with self._lock:
                    self.seconds[name] += spent - self._thread.inner
                self._thread.inner = before + spent

        return timed

    def shares(self, total: float, runs: int) -> dict[str, dict[str, float]]:
        """Seconds per run and percentage of `total`, for each stage and for all `other` work."""
        seconds = self.seconds | {"other": total - sum(self.seconds.values())}
        return {name: {"cpu_seconds": s / runs, "percent": 100 * s / total} for name, s in seconds.items()}


def rate(product: Callable[[Tensor, Tensor], Tensor] = operator.matmul) -> float:
    """Flops per second of square matrix products in float32, by torch or another product, the best of ten."""
    a = torch.randn(2048, 2048)
    spent = []
    for _ in range(10):
        start = time.perf_counter()
        product(a, a)
        spent.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(spent)


def floor(tasks: int, blocks: int) -> float:
    """Flops of the necessary products in float32 (half for a Gram matrix)."""
    flops = 0.0
    for m, n in BLOCK.values():
        large, small = max(m, n), min(m, n)
        k = small // tasks
        width = tasks * k
        flops += tasks * (large * small**2 + 4 * large * small * k)  # Gram matrices, images and vectors
        flops += (m + n) * width**2 + 2 * 2 * width**3  # two Gram matrices and inverse roots
        flops += 2 * (m + n) * width**2 + 2 * m * n * width  # two polar factors and their product
    return blocks * flops


def show(result: Mapping[str, object], out: Path | None) -> None:
    """Print a result, and write it to a file if given."""
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--spectrum", default="zoo", help="zoo, or the exponent of a power law such as 0.5")
    parser.add_argument("--pairs", type=int, default=3, help="measurements, each of both procedures")
    parser.add_argument("--accuracy", action="store_true", help="errors of both against one block in float64 too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, finetuned = models(args.tasks, args.blocks, args.spectrum)
    ours, theirs, stages = [], [], Stages()
    cpu: dict[str, list[float]] = {"ours": [], "theirs": []}
    with ExitStack() as stack:
        stages.watch(stack, fast, ("gram", "_ritz", "_complete", "_orthonormal", "gram_polar"))
        stages.watch(stack, fast_polar, ("gram", "eigh"))
        stages.watch(stack, krylov, ("top_vectors",))
        for _ in range(args.pairs):
            start, used = time.perf_counter(), time.process_time()
            merged = tsv_exp.merge(base, finetuned, "tsv_m", engine=Engine(exclude=EXCLUDED))
            ours.append(time.perf_counter() - start)
            cpu["ours"].append(time.process_time() - used)
            start, used = time.perf_counter(), time.process_time()
            expected = reference(base, finetuned, torch.float32)
            theirs.append(time.perf_counter() - start)
            cpu["theirs"].append(time.process_time() - used)
    flops, by_numpy = rate(), rate(times)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "tasks": args.tasks,
        "blocks": args.blocks,
        "spectrum": args.spectrum,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds": statistics.median(ours),
        "reference_seconds": statistics.median(theirs),
        "speedup": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        "all_seconds": ours,
        "all_reference_seconds": theirs,
        "cpu_seconds": statistics.median(cpu["ours"]),
        "reference_cpu_seconds": statistics.median(cpu["theirs"]),
        "gflops": flops / 1e9,
        "floor_seconds": floor(args.tasks, args.blocks) / flops,
        "gflops_by_numpy": by_numpy / 1e9,
        "floor_seconds_by_numpy": floor(args.tasks, args.blocks) / by_numpy,
        "stages": stages.shares(sum(cpu["ours"]), args.pairs),
    }
    if args.accuracy:
        block = [name for name in base if name.startswith("blocks.0.")]
        part = {name: base[name] for name in block}, {t: {n: m[n] for n in block} for t, m in finetuned.items()}
        exact, tau = reference(*part, torch.float64), merged.vector()
        result["error"] = {n: float((tau[n] - exact[n]).norm() / exact[n].norm()) for n in block}
        result["reference_error"] = {n: float((expected[n] - exact[n]).norm() / exact[n].norm()) for n in block}
    show(result, args.out)


if __name__ == "__main__":
    main()
