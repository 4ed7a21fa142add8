"""Measures the cost of the router: processor time and stored size (docs/router_results.md).

    OMP_NUM_THREADS=1 python benchmarks/router_cost.py --out benchmarks/results/router_cost.json

The embedded benchmark's encoder and CLIP ViT-B-32 with random weights; the time does not depend on values, so the
router's statistics are random too. `--rehearsal FOLDER` merges and serves a ViT-B-32 of random weights with 8 tasks by
tsv-merge and tsv_exp.load instead, and tells seconds and peak anonymous memory (mapped pages of files not counted).
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from merge_memory import TSV_MERGE, measured
from safetensors.torch import save_file
from torch import Tensor, nn

import tsv_exp
from tsv_exp.models.tiny.network import new_clip
from tsv_exp.routing.capture import linear_layers
from tsv_exp.routing.gaussian import fit_gaussians
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.router import FittedRouter

FLOAT = 4  # bytes


def fitted(network: nn.Module, tasks: int, fraction: float) -> FittedRouter:
    """A router with random statistics."""
    layers = {}
    names = [name for name, weight in network.named_parameters() if weight.dim() == 2]
    weights = dict(network.named_parameters())
    for name in linear_layers(network, names):
        m, n = weights[name].shape
        if m >= n:
            r = max(1, int(fraction * n))
            vh = torch.randn(tasks, r, n) / math.sqrt(n)
            layers[name] = fit_gaussians(torch.ones(tasks, r), vh, torch.full((tasks,), 2.0 * r), 0.3)._asdict()
    return FittedRouter(Likelihood(rank_fraction=fraction), tuple(map(str, range(tasks))), layers)


def seconds(function: Callable[[], Any], times: int) -> float:
    """The least processor time of several calls."""
    found = []
    for _ in range(times):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def cost(network: nn.Module, images: Tensor, tasks: int, fraction: float, times: int) -> dict[str, float]:
    """Time of a pass with the router relative to one without, and the router's size relative to checkpoints."""
    router = fitted(network, tasks, fraction)
    router.prepare(network, lambda: network(images[:2]), None)
    with torch.inference_mode():
        alone = seconds(lambda: network(images), times)
        routed = seconds(lambda: router.scores(network, lambda: network(images), None), times)
    checkpoint = FLOAT * sum(weight.numel() for weight in network.parameters())
    return {
        "images at a time": len(images),
        "tasks": tasks,
        "rank_fraction": fraction,
        "milliseconds per image, one pass": 1000 * alone / len(images),
        "milliseconds per image, pass and router": 1000 * routed / len(images),
        "router beside one pass": routed / alone - 1,
        "router's size in one checkpoint": router.stored_bytes / checkpoint,
        "router's size in one checkpoint per task": router.stored_bytes / checkpoint / tasks,
    }


def vit() -> nn.Module:
    """The image encoder of CLIP ViT-B-32 with random weights."""
    import open_clip

    encoder: nn.Module = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual
    return encoder.eval().requires_grad_(False)


def rehearsal(folder: Path, tasks: int = 8) -> dict[str, float]:
    """Merge and serve a ViT-B-32 of random weights."""
    encoder = vit()
    base = encoder.state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: w.contiguous() for name, w in base.items()}, folder / "base.safetensors")
    names = [f"task{i}" for i in range(tasks)]
    for i, name in enumerate(names):
        generator = torch.Generator().manual_seed(i)
        moved = {k: w + 1e-3 * torch.randn(w.shape, generator=generator) for k, w in base.items()}
        save_file({k: w.contiguous() for k, w in moved.items()}, folder / f"{name}.safetensors")
        del moved
    files = ",".join(f"{folder}/{name}.safetensors" for name in names)
    words = [f"base={folder}/base.safetensors", f"models=[{files}]", f"out={folder}/out", "method=tsv_c"]
    merging = measured([TSV_MERGE, *words, "router=likelihood"])
    serving = measured([sys.executable, __file__, "--serve", str(folder / "out")])
    return {
        **{f"{key} of merging": value for key, value in merging.items()},
        **{f"{key} of loading and answering 16 images": value for key, value in serving.items()},
        "size of the folder (MB)": sum(file.stat().st_size for file in (folder / "out").glob("*.safetensors")) / 1e6,
        "size of the router (MB)": (folder / "out" / "router.safetensors").stat().st_size / 1e6,
        "size of one checkpoint (MB)": (folder / "base.safetensors").stat().st_size / 1e6,
    }


def serve(folder: Path) -> None:
    """Load a ViT-B-32 with its router, and answer 16 images."""
    tsv_exp.load(folder, vit()).predict(torch.randn(16, 3, 224, 224))


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", type=Path, default=Path("benchmarks/results/router_cost.json"))
    given.add_argument("--rehearsal", type=Path, metavar="FOLDER", help="needs 5 GB of disk")
    given.add_argument("--serve", type=Path, metavar="FOLDER", help="only load what a rehearsal wrote and answer")
    options = given.parse_args()
    torch.manual_seed(0)
    if options.serve:
        serve(options.serve)
        return
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.rehearsal:
        known["rehearsal"] = rehearsal(options.rehearsal)
    else:
        tiny, large = new_clip().visual.eval().requires_grad_(False), vit()
        measured = [
            ("tiny", tiny, torch.randn(256, 3, 28, 28), (0.25, 0.125), 5),
            ("ViT-B-32", large, torch.randn(8, 3, 224, 224), (0.25, 0.125), 5),
            ("ViT-B-32, large batches", large, torch.randn(128, 3, 224, 224), (0.25,), 1),
        ]
        for name, network, images, fractions, times in measured:
            if name not in known:
                known[name] = [cost(network, images, t, f, times) for f in fractions for t in (8, 14, 20)]
                options.out.write_text(json.dumps(known, indent=1) + "\n")
    options.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
