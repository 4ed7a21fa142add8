"""Output forms of a merge: one model, the parts of one model per task, or an adapter (adapter_output.py)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.checkpoints import store
from tsv_exp.checkpoints.adapters.conv1d import known_conv1d_weights
from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.checkpoints.description import describe
from tsv_exp.checkpoints.folders import is_variant
from tsv_exp.checkpoints.formats import DESCRIPTION
from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.merge_files.records.measures import Measured, square
from tsv_exp.merge_files.work import Advance, Content, Work, checked
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.results.weights import merged_weight
from tsv_exp.routing.router import fit
from tsv_exp.routing.serving.files import write_router
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import Kinds, kinds

_DIFFUSERS = "diffusion_pytorch_model"  # diffusers' file name for the weights of a component


class Form(Protocol):
    """Names and content of the files of an output."""

    work: Work
    stem: str
    limit: float
    """The largest size of a file in bytes."""
    sizes: dict[str, int]
    """The base's tensors that are part of the output, with their sizes in bytes."""
    configuration: Configuration | None
    """The configuration files next to the weights."""

    def content(self, names: Sequence[str], advance: Advance) -> Content:
        """The tensors' names, dtypes and shapes in one file, and a lazy stream of the tensors."""
        ...

    def describe(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Write the description next to the weights, whose files have these digests."""
        ...


@dataclass
class WholeModel:
    """One model in the base's layout: the merge, or with task=NAME the model of that task."""

    work: Work

    def __post_init__(self) -> None:
        self.sizes = _sizes(self.work)
        folder = self.work.inputs.base_folder
        self.configuration = self.work.inputs.configuration(self.work.options)
        self.stem, self.limit = "model", self.work.options.shard_mb * 2**20
        own = Path(getattr(self.work.stream.base, "path", None) or "")
        if own.name.startswith(_DIFFUSERS):
            self.stem = _DIFFUSERS
        if folder is not None and is_variant(own):
            self.stem, self.limit = own.stem, math.inf  # indexes of variants have names of their own
        if folder is not None and (folder / "open_clip_config.json").is_file():
            self.stem = "open_clip_model" if own.name.startswith("open_clip") else "model"
            self.limit = math.inf  # open_clip reads a single file

    def content(self, names: Sequence[str], advance: Advance) -> Content:
        """The merged weights, and the buffers of the base."""
        work, base, floating = self.work, self.work.stream.base, set(self.work.stream.names)
        task = work.options.task
        index = None if task is None else work.stream.tasks.index(task)

        def whole(layer: Layer, found: Measured) -> Tensor:
            name, weight, done = layer.name, base[layer.name], 0
            result = torch.empty(weight.shape, dtype=work.dtype(name))  # never held in another dtype as a whole
            before, after = weight.detach().reshape(-1), result.view(-1)
            for merged, shape in work.merged_blocks(layer, found):
                for tau in layers.delta_blocks(merged, shape, index):
                    start, part = (flat[done : done + tau.numel()].view(tau.shape) for flat in (before, after))
                    made, kept = merged_weight(name, start, tau, found.alpha)
                    part.copy_(checked(name, made.to("cpu", result.dtype), start))
                    found.merged, found.kept_entries = found.merged + square(tau), found.kept_entries + kept
                    done += tau.numel()
            return result

        results = work.merged_layers(whole, names, advance)
        announced = {name: (work.dtype(name), base[name].shape) for name in names}
        return announced, (next(results) if name in floating else base[name] for name in names)

    def describe(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Adapt the base's configuration files to the merge."""
        if self.configuration is not None:
            places = {name: file for file in map(read, map(folder.joinpath, digests)) for name in file}
            self.configuration = self.configuration.untied(self.work.stream.base, lambda name: places[name][name])


@dataclass
class ByTask:
    """The parts of each layer, before α, for a method with one model per task."""

    work: Work

    def __post_init__(self) -> None:
        if len(self.work.plan.rules) > 1:
            raise UserError("layers: methods with a model per task do not support layers; give task=NAME")
        if self.work.inputs.vocabulary is not None:
            raise UserError("vocabulary and tokenizer: this method has a model per task; give task=NAME")
        router = self.work.options.router
        self.transposed = known_conv1d_weights(self.work.stream.base, f"router={router.name}") if router else ()
        self.stem = store.STEM
        self.configuration: Configuration | None = None
        self.sizes = _sizes(self.work)
        self.limit = self.work.options.shard_mb * 2**20

    def content(self, names: Sequence[str], advance: Advance) -> Content:
        """Factors, masks or deltas; which ones a layer has is known after it is merged."""
        work, stream = self.work, self.work.stream

        def encoded(layer: Layer, found: Measured) -> dict[str, Tensor]:
            name, merged = layer.name, work.merged(layer, found)
            parts = store.encode(name, merged, stream.base[name].shape, stream.tasks, work.dtype(name))
            found.by_task = bool(parts)
            return {key: checked(name, part) for key, part in parts.items()}

        parts = {key: tensor for part in work.merged_layers(encoded, names, advance) for key, tensor in part.items()}
        return _announced(parts)

    def describe(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Write method, tasks and shapes, for `store.load_merged`, and the router for `tsv_exp.load`."""
        rest, stream = self.work.plan.rules[-1], self.work.stream
        if self.work.options.router is not None:
            fitted = fit(self.work.options.router, stream, self.work.algebra, transposed=self.transposed)
            write_router(folder, fitted)
        with atomic(folder / DESCRIPTION) as path:
            path.write_text(describe(rest.method, stream.tasks, stream.base, rest.alpha, digests))


def _sizes(work: Work) -> dict[str, int]:
    return {name: weight.numel() * work.dtype(name).itemsize for name, weight in work.stream.base.items()}


def _announced(parts: dict[str, Tensor]) -> tuple[Kinds, Iterable[Tensor]]:
    return kinds(parts), parts.values()
