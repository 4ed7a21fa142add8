"""Merge checkpoint files: weights in, merged weights out, for any architecture, a few layers at a time."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.checkpoints import store, writer
from tsv_exp.checkpoints.description import DESCRIPTION, describe
from tsv_exp.checkpoints.sources import folder_of, locate, open_weights
from tsv_exp.config import Engine
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.build import build_algebra, log_fallbacks
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.merge_files.options import DTYPES, Options
from tsv_exp.merging.layer import Layer, finite
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification import Method
from tsv_exp.runtime.console import bar, console
from tsv_exp.runtime.distributed import assigned, process_group, rank_device, split_work
from tsv_exp.storage import files
from tsv_exp.storage.digests import digest
from tsv_exp.storage.tensor_files import Kinds, kinds
from tsv_exp.versions import program

Result = TypeVar("Result")


def run(options: Options) -> None:
    """Merge; raises UserError for whatever the user can mend."""
    engine = Engine(svd=options.svd, exclude=options.exclude)
    method = Method.load(options.method).with_params(**options.params)
    alpha = method.alpha.default if options.alpha is None else float(options.alpha)
    base = open_weights(options.base)
    models = {task: open_weights(path, base) for task, path in options.models.items()}
    device = rank_device(options.device) if options.device else None
    stream = TaskVectors.of(base, models, engine, device)
    _all_match(options.exclude or (), [name for name in stream.names if base[name].dim() == 2])
    if options.task is not None and options.task not in stream.tasks:
        raise UserError(f"task={options.task}: choose from: {', '.join(stream.tasks)}")
    inputs = {name: _fingerprint(path) for name, path in _sources(options).items()}
    settings = [options.task, options.dtype, options.shard_mb, engine.svd, list(engine.excluded)]
    recipe = digest(program(), method.name, dict(method.params), alpha, settings, inputs)
    folder = folder_of(locate(options.base))
    with process_group() as (rank, world, wait), ExitStack() as held:
        decompositions = build_algebra(engine, stream.compute_device)
        function = method.bind(stream, decompositions)
        by_task = options.task is None and _per_task(stream, function)
        content = _content(stream, function, decompositions, alpha, options, by_task)
        limit = options.shard_mb * 2**20
        stem, limit = (store.STEM, limit) if by_task else _layout(base.path, folder, limit)
        parts = writer.shards({n: _size(base[n], options.dtype) for n in base}, limit)
        output = writer.Output(options.out, stem, len(parts), recipe)
        if rank == 0:
            held.enter_context(output.prepared(options.wait))
        wait()
        costs = {name: weight.numel() * min(weight.shape, default=1) for name, weight in base.items()}
        work = split_work(parts, costs, world)
        mine = assigned({i: sum(costs[name] for name in names) for i, (_, names) in enumerate(work)}, rank, world)
        with bar(f"merging {method.name}", sum(len(work[i][1]) for i in mine)) as (progress, shown):
            for whole, names in (work[i] for i in mine):
                file = output.files[whole] if names == parts[whole] else output.piece(output.files[whole], names)
                if output.finished(output.files[whole]) or output.finished(file):
                    progress.advance(shown, len(names))
                else:
                    output.write(file, *content(names, lambda: progress.advance(shown)))
        log_fallbacks(decompositions)
        wait()
        for whole in range(rank, len(parts), world):
            cut = [output.piece(output.files[whole], names) for index, names in work if index == whole]
            if len(cut) > 1 and not output.finished(output.files[whole]):
                output.assemble(output.files[whole], cut)
        wait()
        if rank == 0:
            if by_task:
                with files.atomic(options.out / DESCRIPTION) as path:
                    path.write_text(describe(method, stream.tasks, base, alpha, output.digests))
            size = output.finish(None if by_task else folder)
            console.print(f"{options.out}: {size / 1e6:.1f} MB in {len(parts)} files", highlight=False)


def _content(stream: TaskVectors, function: Any, used: Algebra, alpha: float, options: Options, by_task: bool) -> Any:
    """names, advance -> what tensors one file has, and the tensors, which are made as they are taken."""
    index = stream.tasks.index(options.task) if options.task is not None else None

    floating = set(stream.names)

    def whole(layer: Layer) -> Tensor:
        weight = stream.base[layer.name]
        tau = layers.delta(function(layer), weight.shape, index)
        result = torch.add(weight.to(tau), tau, alpha=alpha).to("cpu", _dtype(weight, options.dtype))
        return _checked(layer.name, result)

    def encoded(layer: Layer) -> dict[str, Tensor]:
        weight = stream.base[layer.name]
        dtype = _dtype(weight, options.dtype)
        parts = store.encode(layer.name, function(layer), weight.shape, stream.tasks, dtype)
        return {key: _checked(layer.name, part) for key, part in parts.items()}

    def made(work: Callable[[Layer], Result], names: Sequence[str], advance: Callable[[], object]) -> Iterator[Result]:
        for result in map_layers(work, stream, used, [name for name in names if name in floating]):
            yield result
            advance()

    def tensors(names: Sequence[str], advance: Callable[[], object]) -> tuple[Kinds, Iterable[Tensor]]:
        if by_task:  # which factors a layer has is known when they are there
            parts = {key: tensor for part in made(encoded, names, advance) for key, tensor in part.items()}
            return kinds(parts), parts.values()
        results = made(whole, names, advance)
        announced = {name: (_dtype(stream.base[name], options.dtype), stream.base[name].shape) for name in names}
        return announced, (next(results) if name in floating else stream.base[name] for name in names)

    return tensors


def _layout(file: Path, folder: Path | None, limit: float) -> tuple[str, float]:
    """How the files of a whole model are named, and their largest size: open_clip opens no more than one."""
    if folder is None or not (folder / "open_clip_config.json").is_file():
        return "model", limit
    return "open_clip_model" if file.name.startswith("open_clip") else "model", math.inf


def _checked(name: str, made: Tensor) -> Tensor:
    """What is written of a layer, if all of it is finite; its inputs are."""
    if made.is_floating_point() and not finite(made):
        raise UserError(
            f"tensor {name!r} of the result is too large for {str(made.dtype).removeprefix('torch.')}; "
            "give dtype=bfloat16 or a smaller alpha"
        )
    return made


def _all_match(patterns: Iterable[str], matrices: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            some = ", ".join(matrices[:3])
            raise UserError(
                f"exclude={pattern!r} matches none of the base's 2-D weights ({some}, ...); * is any part of a name"
            )


def _per_task(stream: TaskVectors, function: Any) -> bool:
    """Whether a method has a model per task, seen on its smallest matrix and its smallest other layer."""
    smallest: dict[bool, str] = {}
    for name in sorted(stream.names, key=lambda name: stream.base[name].numel()):
        smallest.setdefault(stream.is_matrix(name), name)
    results: list[tuple[Representation, torch.Size]] = [
        (function(stream.layer(name)), stream.base[name].shape) for name in smallest.values()
    ]
    return any(layers.per_task(layer, shape) for layer, shape in results)


def _dtype(weight: Tensor, wanted: str | None) -> torch.dtype:
    """In which a weight is written; buffers stay as they are."""
    return DTYPES[wanted] if wanted and weight.is_floating_point() else weight.dtype


def _size(weight: Tensor, wanted: str | None) -> int:
    return weight.numel() * _dtype(weight, wanted).itemsize


def _sources(options: Options) -> dict[str, str]:
    return {"base": options.base} | {f"model {task}": path for task, path in options.models.items()}


def _fingerprint(source: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a source: what says that an interrupted merge may go on."""
    path = locate(source)
    folder = folder_of(path)
    found = sorted(file for file in folder.iterdir() if file.is_file()) if folder else [path]
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
