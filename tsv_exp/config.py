"""The typed root of the configuration; the plugin groups (model, method, alpha, ...) stay plain YAML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tsv_exp.errors import UserError

SVD = ("auto", "exact")
EXPERTS = (  # 3-D weights of a layer's experts, by the names of transformers and MegaBlocks
    "*experts.gate_up_proj",
    "*experts.gate_proj",
    "*experts.up_proj",
    "*experts.down_proj",
    "*experts.w[123]",
    "*.input_linear.weight",
    "*.output_linear.weight",
)
CACHE = ("off", "memory", "disk")
PRECISIONS = ("auto", "bfloat16", "float16", "float32")
EXCLUDE = ("*text_projection*",)  # default patterns of 2-D parameters that are not matrices


def conf_dir() -> Path:
    """The configuration folder: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def with_router(override: str) -> list[str]:
    """The overrides that `method=METHOD+ROUTER` stands for, so that a sweep over methods can include a router."""
    key, _, value = override.partition("=")
    method, plus, router = value.partition("+")
    if key != "method" or not plus or "," in value:
        return [override]
    return [f"method={method}", f"router={router}"]


def sources(search: Sequence[Path] = ()) -> list[str]:
    """The addresses of configuration folders: `search`, the first before the others, and conf."""
    return [f"file://{folder.resolve()}" for folder in (*search, conf_dir())]


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers with interpolations resolved, without Hydra's own node."""
    return {
        str(key): OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for key in cfg
        if key != "hydra"
        for node in [cfg[key]]
    }


@dataclass
class Engine:
    """Settings of merging.

    `svd`: auto (fast and certified, with the exact decomposition as fallback) or exact.
    `cache`: where singular factors are cached for the next merge of the same weights: memory, disk or off.
    `exclude`: patterns of 2-D layers that are not matrices; None: the model's own.
    `stacks`: patterns of 3-D layers (E, m, n) that are E matrices each, such as the experts of a layer.
    `keep`: patterns of tensors that are copied from the base. `ignore`: patterns of the models' tensors to ignore.
    """

    svd: str = "auto"
    cache: str = "off"
    exclude: list[str] | None = None
    stacks: list[str] = field(default_factory=lambda: list(EXPERTS))
    keep: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key, known in (("svd", SVD), ("cache", CACHE)):
            if getattr(self, key) not in known:
                raise UserError(f"engine.{key}={getattr(self, key)}: choose from: {', '.join(known)}")
        for key in ("exclude", "stacks", "keep", "ignore"):
            if isinstance(patterns := getattr(self, key), str):  # not a list of its characters
                raise UserError(f"engine.{key}={patterns}: give a list of patterns, as in [{patterns!r}]")

    @property
    def excluded(self) -> tuple[str, ...]:
        """Patterns of 2-D layers that are not matrices."""
        return EXCLUDE if self.exclude is None else tuple(self.exclude)

    def of(self, exclude: Sequence[str]) -> "Engine":
        """These settings with the model's `exclude` as the default."""
        return replace(self, exclude=list(exclude)) if self.exclude is None else self


@dataclass
class Evaluate:
    """Settings of evaluation. `precision`: auto, bfloat16, float16 or float32; `batch_size`: null: by the device."""

    precision: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"evaluate.batch_size={self.batch_size}: give a positive number, or null")


def check_precision(precision: str) -> None:
    """Check the name of a number format.

    Raises:
        UserError: it is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: choose from: {', '.join(PRECISIONS)}")


def check_device(device: str) -> None:
    """Check the name of a device; whether this machine has it is not checked.

    Raises:
        UserError: it is neither auto nor cpu nor cuda:N.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
        raise UserError(f"device={device}: no such device; choose auto, cpu or cuda:N")


@dataclass
class Paths:
    """The folder of runs, and the cache folder (null: the user's cache folder)."""

    outputs: str = "outputs"
    cache: str | None = None


@dataclass
class Common:
    """Keys of every command; a typo or a value of the wrong type is an error that names the key."""

    name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    seed: int = 0
    device: str | None = "auto"
    model: dict[str, Any] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)


@dataclass
class Config(Common):
    """The configuration of tsv-exp. `resume`: a sweep reuses the results of earlier runs of the same cell."""

    resume: bool = True
    tasks: Any = 8
    task: dict[str, Any] = field(default_factory=dict)
    save_merged: bool = False
    method: dict[str, Any] = field(default_factory=dict)
    alpha: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    router: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    engine: Engine = field(default_factory=Engine)
    evaluate: Evaluate = field(default_factory=Evaluate)


@dataclass
class Analysis(Common):
    """The configuration of tsv-analyze."""

    tasks: Any = 8
    task: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    models: Any = None
    rank_fraction: float | None = None
    select: int | None = None
    tracking: dict[str, Any] = field(default_factory=dict)
    engine: Engine = field(default_factory=Engine)


@dataclass
class LowRank:
    """Overrides of the settings of finetune=lora."""

    rank: int | None = None
    alpha: float | None = None
    targets: list[str] | None = None
    lr_factor: float | None = None


@dataclass
class Training:
    """Overrides of the model's fine-tuning recipe."""

    lr: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    warmup: float | None = None
    warmup_steps: int | None = None
    clip: float | None = None
    trainable: list[str] | None = None
    precision: str | None = None
    lora: LowRank = field(default_factory=LowRank)


@dataclass
class Finetuning(Common):
    """The configuration of tsv-finetune."""

    task: dict[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    output: str = "checkpoints"
    adapter: bool = False
    save_every: int = 200
    finetune: Training = field(default_factory=Training)


for _name, _schema in (("schema", Config), ("analysis_schema", Analysis), ("finetuning_schema", Finetuning)):
    ConfigStore.instance().store(name=_name, node=_schema)
