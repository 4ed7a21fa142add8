"""Images per second of ViT-B-32 on a CPU: number formats and layouts, beside the matrix products alone.

    OMP_NUM_THREADS=1 python benchmarks/encoding.py --out benchmarks/results/encoding.json

The encoder has random weights. The variants run in turn, and a figure is the best of its rounds in images per second of
processor time. `products` multiplies matrices of the shapes of all layers in bfloat16, and computes nothing else.
The accuracy of each variant is measured on the validation images of the embedded benchmark, with TSV-M's merge of 8
tasks.
"""

import argparse
import copy
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from merge_speed import show
from torch import Tensor, nn
from torch.nn.functional import normalize

from tsv_exp import apply, merge
from tsv_exp.config import Engine, conf_dir
from tsv_exp.models.clip import network
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.tasks.definitions import task_names

BF16 = torch.bfloat16
Variant = Callable[[nn.Module], Callable[[Tensor], Tensor]]


def _encode(encoder: Callable[..., Any], mixed: bool = False) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", BF16) if mixed else nullcontext():
            found: Tensor = encoder(images)
        return found.float()

    return run


def _cast(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
    run = _encode(copy.deepcopy(encoder).to(BF16))
    return lambda images: run(images.to(BF16))


def _channels_last(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
    run = _encode(copy.deepcopy(encoder).to(memory_format=torch.channels_last), mixed=True)
    return lambda images: run(images.to(memory_format=torch.channels_last))


def _int8(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of another package
        return _encode(torch.ao.quantization.quantize_dynamic(copy.deepcopy(encoder), {nn.Linear}, dtype=torch.qint8))


VARIANTS: dict[str, Variant] = {
    "float32": _encode,
    "bfloat16, mixed (the default)": lambda encoder: _encode(encoder, mixed=True),
    "bfloat16, weights too": _cast,
    "bfloat16, mixed, channels last": _channels_last,
    "bfloat16, mixed, torch.compile": lambda encoder: _encode(torch.compile(encoder), mixed=True),
    "int8 weights and activations": _int8,
}


def products(images: int) -> Callable[[], None]:
    """The matrix products of ViT-B-32's layers: patches, attention, and the two of each MLP."""
    width, layers, tokens, embedding = 768, 12, 50, 512
    rows = images * tokens
    shapes = [(images * (tokens - 1), 3 * 32 * 32, width), (images, width, embedding)]
    for inner, outer in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        shapes += layers * [(rows, inner, outer)]
    factors = [(torch.randn(m, k).to(BF16), torch.randn(n, k).to(BF16).T) for m, k, n in dict.fromkeys(shapes)]
    counts = [shapes.count(shape) for shape in dict.fromkeys(shapes)]
    heads = torch.randn(12 * images, tokens, 64).to(BF16)

    def run() -> None:
        for count, (a, b) in zip(counts, factors, strict=True):
            for _ in range(count):
                a @ b
        for _ in range(layers):
            heads @ heads.mT @ heads

    return run


def rates(images: int, rounds: int) -> dict[str, float]:
    """Images per second of processor time, of each variant and of the products alone."""
    torch.manual_seed(0)
    encoder = network._clip("ViT-B-32-quickgelu").visual.eval().requires_grad_(False)
    batch = torch.randn(images, 3, 224, 224)
    work: dict[str, Callable[[], Any]] = {"products": products(images)}
    for name, make in VARIANTS.items():
        work[name] = (lambda run: lambda: run(batch))(make(encoder))
    best = dict.fromkeys(work, float("inf"))
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if number:  # the first round compiles
                best[name] = min(best[name], time.process_time() - start)
    return {name: images / seconds for name, seconds in best.items()}


def accuracies(count: int) -> dict[str, float]:
    """The mean validation accuracy in percent of TSV-M's merge at α = 1 on the embedded benchmark."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        model: TinyModel = instantiate(compose("config", ["model=tiny"]).model)
    catalogue = model.catalogue()
    tasks = [catalogue[name] for name in task_names("tiny", None)[:count]]
    engine = Engine(exclude=list(model.exclude))
    merged = apply(model.base(), merge(model.base(), model.finetuned(tasks), "tsv_m", engine=engine), 1.0)
    encoder = model.encoder()
    encoder.load_state_dict(merged)
    found = {}
    for name, make in VARIANTS.items():
        run, shares = make(encoder), []
        for task in tasks:
            split = model.split(task, "validation")
            features = normalize(run(model.prepare(split.inputs[:], torch.device("cpu"))), dim=-1)
            shares.append(float((features @ model.head(task).T).argmax(1).eq(split.labels).float().mean()))
        found[name] = 100 * fmean(shares)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    speed, right = rates(args.images, args.rounds), accuracies(args.tasks)
    rows = {name: {"images_per_second": round(rate, 2)} for name, rate in speed.items()}
    for name, value in right.items():
        rows[name]["accuracy"] = round(value, 3)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "variants": rows,
    }
    show(result, args.out)


if __name__ == "__main__":
    main()
