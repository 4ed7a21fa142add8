"""A CLIP of toy size in the formats of the hub and of the paper, and data sets as the hub serves them."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from torch import Tensor

from tsv_exp.data.examples import Examples
from tsv_exp.data.tasks import source_of, task_of
from tsv_exp.tasks.definitions import define, members
from tsv_exp.tasks.task import SplitName, Task

LAYERS, WIDTH, EMBEDDING, PATCH, SIZE = 2, 32, 12, 8, 32
TEXT_LAYERS, TEXT_WIDTH = 1, 16
ARCHITECTURE = {
    "embed_dim": EMBEDDING,
    "quick_gelu": True,
    "vision_cfg": {"layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": PATCH, "image_size": SIZE},
    "text_cfg": {"width": TEXT_WIDTH, "heads": 2, "layers": TEXT_LAYERS},
}
Weights = dict[str, Tensor]


def _blocks(prefix: str, layers: int, width: int, draw: "Draw") -> Weights:
    weights: Weights = {}
    for i in range(layers):
        at = f"{prefix}encoder.layers.{i}."
        for name in ("q", "k", "v", "out"):
            weights |= draw.linear(f"{at}self_attn.{name}_proj", width, width)
        weights |= draw.norm(f"{at}layer_norm1", width) | draw.norm(f"{at}layer_norm2", width)
        weights |= draw.linear(f"{at}mlp.fc1", 4 * width, width) | draw.linear(f"{at}mlp.fc2", width, 4 * width)
    return weights


class Draw:
    """Random parameters by one generator."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, *shape: int, scale: float | None = None) -> Tensor:
        return (scale or 0.2) * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, rows: int, columns: int) -> Weights:
        return {f"{name}.weight": self.tensor(rows, columns), f"{name}.bias": self.tensor(rows)}

    def norm(self, name: str, width: int) -> Weights:
        return {f"{name}.weight": 1 + self.tensor(width), f"{name}.bias": self.tensor(width)}


def vision(seed: int, prefix: str = "vision_model.") -> Weights:
    """transformers' CLIPVisionModel."""
    draw, at = Draw(seed), f"{prefix}embeddings."
    return {
        f"{at}class_embedding": draw.tensor(WIDTH),
        f"{at}patch_embedding.weight": draw.tensor(WIDTH, 3, PATCH, PATCH),
        f"{at}position_embedding.weight": draw.tensor((SIZE // PATCH) ** 2 + 1, WIDTH),
        **draw.norm(f"{prefix}pre_layrnorm", WIDTH),
        **_blocks(prefix, LAYERS, WIDTH, draw),
        **draw.norm(f"{prefix}post_layernorm", WIDTH),
    }


def whole(seed: int) -> Weights:
    """transformers' CLIPModel."""
    draw = Draw(seed + 1)
    return {
        **vision(seed),
        "visual_projection.weight": draw.tensor(EMBEDDING, WIDTH),
        "text_model.embeddings.token_embedding.weight": draw.tensor(49408, TEXT_WIDTH),
        "text_model.embeddings.position_embedding.weight": draw.tensor(77, TEXT_WIDTH),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        **_blocks("text_model.", TEXT_LAYERS, TEXT_WIDTH, draw),
        **draw.norm("text_model.final_layer_norm", TEXT_WIDTH),
        "text_projection.weight": draw.tensor(EMBEDDING, TEXT_WIDTH),
        "logit_scale": torch.tensor(4.6),
    }


def moved(weights: Weights, seed: int, scale: float = 0.05) -> Weights:
    """Weights some way from others, as fine-tuning leaves them."""
    draw = Draw(seed)
    return {name: w + draw.tensor(*w.shape, scale=scale) if w.is_floating_point() else w for name, w in weights.items()}


def models(root: Path, tasks: list[Task]) -> None:
    """The base as openai/tiny and a fine-tuned CLIPVisionModel per task as zoo/clip_<suffix>."""
    base = whole(0)
    folder = root / "models/openai/tiny"
    folder.mkdir(parents=True)
    torch.save(base, folder / "pytorch_model.bin")
    start = {name: weight for name, weight in base.items() if name.startswith("vision_model.")}
    for number, task in enumerate(tasks):
        weights = moved(start, 10 + number)
        if number % 2:  # older and newer files
            weights = {name.removeprefix("vision_model."): weight for name, weight in weights.items()}
        else:
            weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        folder = root / "models/zoo" / f"clip_{task.source['checkpoint_name']}"
        folder.mkdir(parents=True)
        save_file(weights, folder / "model.safetensors")


def picture(seed: int, grey: bool = False, size: tuple[int, int] = (40, 36)) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Picture.fromarray(pixels).convert("L" if grey else "RGB").save(file, "png")
    return file.getvalue()


def parquet(file: Path, classes: list[str] | int, count: int, image: str = "image", label: str = "label") -> None:
    """A parquet file as the hub has them: images, and labels with class names (or plain numbers below `classes`)."""
    from datasets import ClassLabel, Dataset, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    number = classes if isinstance(classes, int) else len(classes)
    kind = Value("int64") if isinstance(classes, int) else ClassLabel(names=classes)
    content = {
        image: [{"bytes": picture(i, grey=i % 3 == 0), "path": None} for i in range(count)],
        label: [i % number for i in range(count)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(content, features=Features({image: Image(), label: kind})).to_parquet(file)


def data(root: Path, tasks: list[Task], train: int = 20, test: int = 10) -> None:
    """The tasks' data sets, in the variety of columns and layouts that the hub has."""
    for number, task in enumerate(tasks):
        given = task.source["data"]
        folder = root / "datasets" / given["hub"]
        inside = folder / given.get("config", "data")
        columns = {"image": ("image", "img")[number % 2], "label": ("label", "labels")[number % 2]}
        classes = len(task.classes) if number % 3 == 0 else list(task.classes)
        for split, count in (("train", train), (given["test"], test)):
            parquet(inside / f"{split}-00000-of-00001.parquet", classes, count, **columns)
        if name := given.get("config"):
            paths = "".join(f"\n  - split: {s}\n    path: {name}/{s}-*" for s in ("train", "test"))
            (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:{paths}\n---\n")


def catalogue(labels: str, **data: object) -> dict[str, Task]:
    """The tasks of the paper with a family's labels, and with these data in the place of their own."""
    names = members("clip")
    found = define(names, {name: {"data": value} for name, value in data.items()})
    return {n: task_of(n, d, labels, ("{}",), "image") for n, d in zip(names, found, strict=True)}


def examples(task: Task, split: SplitName) -> Examples:
    """The images of one of a task's own splits."""
    return source_of(task).examples(task, split, "image")


def first(count: int, labels: str = "hub") -> list[Task]:
    """The first tasks of the catalogue."""
    return list(catalogue(labels).values())[:count]
