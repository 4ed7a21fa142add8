"""What the paper's table takes, stage by stage, beside its floor and the official procedure, from slices and counts.

    OMP_NUM_THREADS=1 python benchmarks/time_to_table.py --images 16 --out benchmarks/results/time_to_table.json

ViT-B-32 with random weights, 20 models of which the first 8, 14 and 20 are merged by every method of
`experiment=paper_table`. Measured on slices, in processor seconds: some of the encoder's 12 blocks, and some images of
400 × 300 pixels. The counts that scale them to the table (images a task, values of α, models, blocks) are in the
result. Stages: `read` checkpoints, `decompose` task matrices, `polar` factors, the rest of `merge`, `encode` images.

The floor reads every checkpoint once, does TSV-M's matrix products (benchmarks/merge_speed.py) and encodes every image
as often as tsv_exp does, at the rates of plain reads, of products and of the encoder, measured in the same process. The
official procedure, with its own counts: all SVDs are full and computed again for every number of tasks and both methods
that need them; for every α the model is built and the images are decoded again.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evaluation import CLASSES, Random, photo
from merge_speed import BLOCK, EXCLUDED, Stages, floor, models, show
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tsv_exp import merge
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.config import Engine
from tsv_exp.decompositions import fast
from tsv_exp.decompositions.wrappers import cached
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.methods.specification.method import Method
from tsv_exp.models import images as pictures
from tsv_exp.models.clip import network
from tsv_exp.runtime.devices import device_of
from tsv_exp.tasks.task import Split

ARCHITECTURE, BLOCKS, SIZES, RACE = "ViT-B-32-quickgelu", 12, (8, 14, 20), 3
METHODS = ["zero_shot", "weight_average", "task_arithmetic", "ties", "consensus_ta", "tsv_m", "tall_mask", "tsv_c"]
METHODS += ["individual"]


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def rate() -> float:
    """Flops per processor second of square products in float32, the best of five."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(seconds(partial(torch.mm, a, a)) for _ in range(5))


def passes(policy: str) -> dict[str, float]:
    """Passes of one task set: over its validation images to choose λ and α, and over its test images.

    Methods that choose λ by the same masked models share these passes through the cache of scores.
    """
    loaded = [Method.load(name) for name in METHODS]
    values = [method.alpha.steps for method in loaded if method.alpha.steps > 1]
    values += [len(tune.values) for tune in {method.tune for method in loaded if method.tune}]
    chosen = sum(min(steps, RACE) for steps in values) if policy == "race" else sum(values)
    return {"validation": chosen + 1, "test": len(METHODS)}  # one for the fine-tuned models, which tie with α = 1


def merging(blocks: int) -> dict[str, dict[str, float]]:
    """Seconds of decomposing, of polar factors, and of all the rest, by number of tasks, for all 12 blocks."""
    base, finetuned = models(max(SIZES), blocks, "zoo")
    found = {}
    for tasks in SIZES:
        few = dict(list(finetuned.items())[:tasks])
        stages = Stages()
        with ExitStack() as stack:
            stages.watch(stack, cached.CachedAlgebra, ("truncated_svd",))
            stages.watch(stack, fast.FastAlgebra, ("polar",))
            total = sum(
                seconds(partial(merge, base, few, name, engine=Engine(exclude=EXCLUDED, cache="memory")))
                for name in METHODS
            )
        scale = BLOCKS / blocks
        parts = {"decompose": stages.seconds["truncated_svd"], "polar": stages.seconds["polar"]}
        parts["merge"] = total - sum(parts.values())
        found[str(tasks)] = {name: scale * value for name, value in parts.items()}
    return found


def official_merging() -> dict[str, float]:
    """Seconds of the official TSV-M and TSV-C on all 12 blocks, by number of tasks, from one SVD of each layer."""
    _, finetuned = models(1, 1, "zoo")
    found = dict.fromkeys(map(str, SIZES), 0.0)
    for name in BLOCK:
        delta = finetuned["task0"][f"blocks.0.{name}"]
        one = seconds(partial(torch.linalg.svd, delta, full_matrices=False))
        for tasks in SIZES:  # T for each method, and TSV-M's of two concatenations, which are as large as the layer
            found[str(tasks)] += BLOCKS * one * (2 * tasks + 2)
    return found


def reading(folder: Path, base: dict[str, Tensor]) -> dict[str, float]:
    """Seconds to read one checkpoint of the encoder by tsv_exp, and as bytes; both from the page cache."""
    path = folder / "checkpoint.safetensors"
    save_file({name: value.contiguous() for name, value in base.items()}, path)

    def tensors() -> None:
        weights = open_weights(path)
        for name in weights:
            weights[name].sum()

    def plain() -> None:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass

    plain()
    return {"gigabytes": path.stat().st_size / 1e9, "tsv_exp": seconds(tensors), "bytes": seconds(plain)}


def encoding(folder: Path, count: int) -> dict[str, float]:
    """Seconds per image: by the evaluator, by the encoder alone, of decoding; seconds to build the model once."""
    os.environ["TSV_EXP_CACHE"] = str(folder)
    files = [photo(seed) for seed in range(count)]
    size = network.image_size(ARCHITECTURE)
    decoded = pictures.Pictures(lambda i: Image.open(io.BytesIO(files[i])), count, size)
    labels = torch.arange(count) % CLASSES
    decoding = seconds(lambda: decoded[:count])
    split: Split = pictures.store(folder / "images", decoded, labels, 1 << 40, "images")
    model = Random(ARCHITECTURE, {"task": split})
    evaluator = Evaluator(model, list(model.catalogue().values()), device_of("cpu"), "auto", count)
    building = seconds(lambda: network.image_encoder(ARCHITECTURE, model.weights, "random"))
    tuned = {name: weight + 1e-3 * torch.randn(weight.shape) for name, weight in model.weights.items()}
    merged = merge(model.weights, {"task": tuned}, "weight_average")
    evaluator.accuracies(merged, 0.0, "validation")
    alpha = seconds(lambda: evaluator._set_alpha(0.1))
    ours = min(seconds(partial(evaluator.accuracies, merged, a, "validation")) for a in (0.2, 0.4)) - alpha
    batch = model.prepare(split.inputs[:count], torch.device("cpu"))
    encoder = evaluator.encoder

    @torch.inference_mode()
    def alone() -> None:
        with torch.autocast("cpu", evaluator.dtype, enabled=evaluator.dtype != torch.float32):
            encoder(batch)

    alone()
    each = {"tsv_exp": ours / count, "encoder": min(seconds(alone) for _ in range(2)) / count}
    return each | {"decode": decoding / count, "build": building, "alpha": alpha}


def table(slices: dict[str, Any], counts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds by stage of the whole table: tsv_exp with its grid and with races, floor, official procedure."""
    read, image, merges = slices["read"], slices["encode"], slices["merge"]
    checkpoints = max(SIZES) + 1
    found: dict[str, dict[str, float]] = {}
    for policy in ("grid", "race"):
        each = counts["passes"][policy]
        images = {split: each[split] * counts[split] * sum(SIZES) for split in ("validation", "test")}
        values = each["validation"] * len(SIZES)
        found[policy] = {
            "read": read["tsv_exp"] * (sum(SIZES) + len(SIZES)),
            **{stage: sum(part[stage] for part in merges.values()) for stage in ("decompose", "polar", "merge")},
            "encode_validation": images["validation"] * image["tsv_exp"] + values * image["alpha"],
            "encode_test": images["test"] * image["tsv_exp"],
        }
        found[f"floor of {policy}"] = {
            "read": read["bytes"] * checkpoints,
            "products": sum(floor(tasks, BLOCKS) for tasks in SIZES) / slices["flops"],
            "encode_validation": images["validation"] * image["encoder"],
            "encode_test": images["test"] * image["encoder"],
        }
    again, encode = counts["passes"]["grid"], (image["encoder"] + image["decode"]) * sum(SIZES)
    loads = sum(again.values()) * len(SIZES)
    found["official"] = {
        "read": read["tsv_exp"] * len(METHODS) * sum(SIZES),
        "decompose, polar, merge": sum(slices["official"].values()),
        "encode_validation": again["validation"]
        * counts["validation"]
        * sum(SIZES)
        * (image["encoder"] + image["decode"]),
        "encode_test": again["test"] * counts["test"] * encode,
        "build": loads * image["build"],
    }
    return {name: stages | {"all": sum(stages.values())} for name, stages in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1, help="of 12, merged")
    parser.add_argument("--images", type=int, default=64, help="encoded")
    parser.add_argument("--validation", type=int, default=2500, help="images a task in the table")
    parser.add_argument("--test", type=int, default=5000, help="images a task in the table")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    counts: dict[str, Any] = {"validation": args.validation, "test": args.test, "tasks": SIZES, "methods": METHODS}
    counts["passes"] = {policy: passes(policy) for policy in ("grid", "race")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slices: dict[str, Any] = {"flops": rate(), "encode": encoding(folder, args.images)}
        slices["read"] = reading(folder, dict(network._clip(ARCHITECTURE).visual.state_dict()))
        slices |= {"merge": merging(args.blocks), "official": official_merging()}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "slice": {"blocks": args.blocks, "images": args.images},
        "counts": counts,
        "measured": slices,
        "seconds": table(slices, counts),
    }
    show(result, args.out)


if __name__ == "__main__":
    main()
