"""What scoring one more α costs beyond its forward passes, and how fast images arrive beside how fast they are encoded.

    OMP_NUM_THREADS=2 python benchmarks/evaluation.py --out benchmarks/results/evaluation.json
    python benchmarks/evaluation.py --device cuda:0 --images 5000 --batch 1024 --repeat 30

An encoder of real size with random weights, JPEG images of 400 × 300. Measured in images per second: the encoder on a
batch that lies on the device, the cached images of a split, and images decoded again. Then `--repeat` values of α are
scored on all tasks by tsv_exp.evaluation.evaluator, and compared with the forward passes alone.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from merge_speed import show
from PIL import Image
from torch import Tensor, nn

from tsv_exp import merge
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.models import images as pictures
from tsv_exp.models.clip import network
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.devices import device_of, mixed
from tsv_exp.tasks.task import Split, Task

CLASSES = 100
MEAN = STD = (0.5, 0.5, 0.5)


class Random(Model):
    """A model with random weights, with only what the evaluator needs."""

    name = family = "random"

    def __init__(self, architecture: str, splits: Mapping[str, Split]):
        self.splits, settings = splits, network.settings(architecture)
        self.architecture, self.width = architecture, int(settings["embed_dim"])
        torch.manual_seed(0)
        clip = network._clip(architecture)
        self.weights = {f"visual.{name}": value for name, value in clip.visual.state_dict().items()}

    def encoder(self) -> nn.Module:
        return network.image_encoder(self.architecture, self.weights, "random")

    def catalogue(self) -> dict[str, Task]:
        return {name: Task(name, tuple(map(str, range(CLASSES))), ("{}",)) for name in self.splits}

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        return {task.name: self.weights for task in tasks}

    def prepare(self, inputs: Tensor, device: torch.device) -> Tensor:
        return network.normalize(inputs.to(device, non_blocking=True), MEAN, STD)

    def head(self, task: Task) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(CLASSES, self.width), dim=-1)

    def split(self, task: Task, _: str) -> Split:
        return self.splits[task.name]

    def base(self) -> Mapping[str, Tensor]:
        return self.weights

    def identity(self, task: Task) -> str:
        return task.name


def photo(seed: int) -> bytes:
    """A JPEG file; smooth, so that it takes as long to decode as a photo."""
    small = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
    return file.getvalue()


def rate(work: Callable[[], int], device: torch.device) -> float:
    """Images per second: the median of three runs after a warm-up run."""
    rates = []
    for _ in range(4):
        start = time.perf_counter()
        count = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    os.environ["TSV_EXP_CACHE"] = str(folder)
    device = device_of(args.device)
    size = network.image_size(args.architecture)
    files = [photo(seed) for seed in range(args.images)]
    decoded = pictures.Pictures(lambda i: Image.open(io.BytesIO(files[i])), args.images, size)
    labels = torch.arange(args.images) % CLASSES
    names = [f"task{i}" for i in range(args.tasks)]
    splits = {name: pictures.store(folder / name, decoded, labels, 1 << 40, name) for name in names}
    model = Random(args.architecture, splits)
    evaluator = Evaluator(model, list(model.catalogue().values()), device, args.precision, args.batch)
    first, _ = next(splits["task0"].batches(args.batch))
    batch, encoder = first.to(device), model.encoder().to(device)

    @torch.inference_mode()
    def forward() -> int:
        with mixed(evaluator.dtype, device):
            encoder(model.prepare(batch, device))
        return len(batch)

    def read(split: Split) -> int:
        return sum(len(images) for images, _ in split.batches(args.batch))

    rates = {
        "encoder": rate(forward, device),
        "cached": rate(lambda: read(splits["task0"]), device),
        "decoded": rate(lambda: read(pictures.Prefetched(decoded, labels)), device),
    }
    tuned = {name: weight + 1e-3 * torch.randn(weight.shape) for name, weight in model.weights.items()}
    merged = merge(model.weights, {"a": tuned}, "weight_average")
    evaluator.accuracies(merged, 0.0, "validation")  # warm-up: encoder, heads and task vector are on the device
    seconds = []
    for i in range(args.repeat):
        alone = args.tasks * args.images / rate(forward, device)  # alternating, since other load varies
        start = time.perf_counter()
        evaluator.accuracies(merged, (i + 1) / args.repeat, "validation")
        seconds.append((time.perf_counter() - start, alone))
    per_alpha, alone = (statistics.median(values) for values in zip(*seconds, strict=True))
    return {
        "command": " ".join(["python", *sys.argv]),
        "architecture": args.architecture,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": str(evaluator.dtype),
        "threads": torch.get_num_threads(),
        "batch": args.batch,
        "tasks": args.tasks,
        "images_per_task": args.images,
        "images_per_second": {name: round(value, 1) for name, value in rates.items()},
        "seconds_per_alpha": per_alpha,
        "seconds_of_forward_passes": alone,
        "overhead": statistics.median(whole / part for whole, part in seconds) - 1,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="per task")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5, help="values of α")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(measure(args, Path(folder)), args.out)


if __name__ == "__main__":
    main()
