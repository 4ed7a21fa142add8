"""tsv-merge: weights in, merged weights out, for any architecture, a few layers at a time.

    tsv-merge base=PATH 'models=[PATH,...]' out=FOLDER [method=tsv_m] [alpha=1.0] [rank_fraction=0.1] ...

base, models   .safetensors or .pt files, folders in the hub's layout, hub ids (owner/name[@revision]), and for
               models also LoRA adapters. models may name its tasks: 'models={cars: PATH, digits: PATH}'.
out            the folder to write: sharded safetensors with an index, and the base's configuration files. Methods
               with a model per task (tsv_c, tall_mask, ...) write their factors and masks, for tsv_exp.apply; with
               task=NAME the whole model of that task instead.
method, alpha  a name in conf/method; alpha defaults to what its file says. Its parameters are given by name.
dtype          of the result: float32, bfloat16, float16; default: the base's.
shard_mb       largest size of a file, default 512; it is held in memory where a method has a model per task.
svd, exclude, device   as in the engine: auto or exact; patterns of 2-D weights that are no matrices; cpu, cuda.

Stopped at any moment, the same command goes on where it was. Under torchrun the layers are shared out over the ranks.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from tsv_exp import files, layers
from tsv_exp.checkpoints import store, writer
from tsv_exp.checkpoints.sources import locate, open_weights
from tsv_exp.checkpoints.writer import Kinds, kinds
from tsv_exp.commands import INTERRUPTED
from tsv_exp.config import Engine
from tsv_exp.engine import algebra, over_layers, report
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.linalg import Algebra
from tsv_exp.method import Method
from tsv_exp.progress import bar, console, stop
from tsv_exp.task_vectors import Layer, TaskVectors

Result = TypeVar("Result")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class Options:
    """The command line; what it does not know is a parameter of the method."""

    base: str
    models: dict[str, str]
    out: Path
    method: str = "tsv_m"
    alpha: float | None = None
    task: str | None = None
    dtype: str | None = None
    shard_mb: float = 512
    svd: str = "auto"
    exclude: Sequence[str] = tuple(Engine().exclude)
    device: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Merge as the command line says; exit 0 only if all of it was done."""
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv[1:]):
        console.print(__doc__, markup=False, highlight=False)
        raise SystemExit(len(sys.argv) < 2)
    try:
        run(parse(sys.argv[1:]))
    except UserError as error:
        raise SystemExit(stop("tsv-merge", str(error), 1)) from error
    except KeyboardInterrupt:
        raise SystemExit(stop("tsv-merge", "interrupted; the same command goes on from here", INTERRUPTED)) from None


def parse(arguments: Sequence[str]) -> Options:
    """Options from words such as base=PATH.

    Raises:
        UserError: a word is not of that form, base, models or out is missing, or a value does not fit.
    """
    for word in arguments:
        if "=" not in word:
            raise UserError(f"{word!r}: give options as name=value; tsv-merge --help lists them")
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"cannot read the options: {str(error).splitlines()[0]}") from error
    for name in ("base", "models", "out"):
        if not given.get(name):
            raise UserError(f"{name} is missing; tsv-merge base=PATH 'models=[PATH,PATH]' out=FOLDER")
    models = given.pop("models")
    if not isinstance(models, Mapping):
        models = named([str(model) for model in (models if isinstance(models, list) else [models])])
    known = {name: given.pop(name) for name in list(given) if name in Options.__dataclass_fields__ and name != "params"}
    options = Options(**known | {"models": models, "out": Path(str(given.get("out", known["out"]))), "params": given})
    options.base, options.models = str(options.base), {str(k): str(v) for k, v in options.models.items()}
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UserError(f"dtype={options.dtype}: choose from: {', '.join(DTYPES)}")
    for name in ("alpha", "shard_mb"):
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"{name}={value}: give a number")
    return options


def named(paths: list[str]) -> dict[str, str]:
    """Tasks named after the last part of their path that tells them apart."""
    for depth in range(1, 1 + max(len(Path(path).parts) for path in paths)):
        names = ["-".join(Path(path).with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(paths):
            return dict(zip(names, paths, strict=True))
    raise UserError("models: the same path is given twice; name each model once")


def run(options: Options) -> None:
    """Merge; raises UserError for whatever the user can mend."""
    engine = Engine(svd=options.svd, exclude=list(options.exclude))
    method = Method.load(options.method).with_params(**options.params)
    alpha = method.alpha.default if options.alpha is None else float(options.alpha)
    base = open_weights(options.base)
    models = {task: open_weights(path, base) for task, path in options.models.items()}
    stream = TaskVectors(base, models, tuple(engine.exclude), options.device)
    if options.task is not None and options.task not in stream.tasks:
        raise UserError(f"task={options.task}: choose from: {', '.join(stream.tasks)}")
    inputs = {name: _fingerprint(path) for name, path in _sources(options).items()}
    settings = [options.task, options.dtype, options.shard_mb, engine.svd, engine.exclude]
    recipe = files.digest(method.name, dict(method.params), alpha, settings, inputs)
    with _ranks() as (rank, world, wait):
        decompositions = algebra(engine, stream.place)
        function = method.bind(stream, decompositions)
        by_task = options.task is None and _per_task(stream, function)
        content = _content(stream, function, decompositions, alpha, options, by_task)
        parts = writer.shards({n: _size(base[n], options.dtype) for n in base}, int(options.shard_mb * 2**20))
        output = writer.Output(options.out, store.STEM if by_task else "model", len(parts), recipe)
        if rank == 0:
            output.prepare()
        wait()
        costs = {name: weight.numel() * min(weight.shape, default=1) for name, weight in base.items()}
        pieces = _pieces(parts, costs, world)
        share = _share({i: sum(costs[name] for name in names) for i, (_, names) in enumerate(pieces)}, rank, world)
        with bar(f"merging {method.name}", sum(len(pieces[i][1]) for i in share)) as (progress, shown):
            for whole, names in (pieces[i] for i in share):
                file = output.files[whole] if names == parts[whole] else output.piece(output.files[whole], names)
                if output.finished(output.files[whole]) or output.finished(file):
                    progress.advance(shown, len(names))
                else:
                    output.write(file, *content(names, lambda: progress.advance(shown)))
        report(decompositions)
        wait()
        for whole in range(rank, len(parts), world):
            cut = [output.piece(output.files[whole], names) for index, names in pieces if index == whole]
            if len(cut) > 1 and not output.finished(output.files[whole]):
                output.assemble(output.files[whole], cut)
        wait()
        if rank == 0:
            source = locate(options.base)
            if by_task:
                with files.atomic(options.out / store.DESCRIPTION) as path:
                    path.write_text(store.describe(method, stream.tasks, base, alpha))
            size = output.finish(None if by_task else source)
            console.print(f"{options.out}: {size / 1e6:.1f} MB in {len(parts)} files", highlight=False)


def _content(stream: TaskVectors, function: Any, used: Algebra, alpha: float, options: Options, by_task: bool) -> Any:
    """names, advance -> what tensors one file has, and the tensors, which are made as they are taken."""
    index = stream.tasks.index(options.task) if options.task is not None else None

    floating = set(stream.names)

    def whole(layer: Layer) -> Tensor:
        weight = stream.base[layer.name]
        tau = layers.delta(function(layer), weight.shape, index)
        return torch.add(weight.to(tau), tau, alpha=alpha).to("cpu", _dtype(weight, options.dtype))

    def encoded(layer: Layer) -> dict[str, Tensor]:
        weight = stream.base[layer.name]
        return store.encode(layer.name, function(layer), weight.shape, stream.tasks, _dtype(weight, options.dtype))

    def made(work: Callable[[Layer], Result], names: Sequence[str], advance: Callable[[], object]) -> Iterator[Result]:
        for result in over_layers(work, stream, used, [name for name in names if name in floating]):
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


def _pieces(parts: Sequence[Sequence[str]], costs: Mapping[str, int], world: int) -> list[tuple[int, list[str]]]:
    """The work on the files, (which of them, names): whole files for one rank, else runs of small enough cost."""
    limit = sum(costs.values()) / world / 4 if world > 1 else sum(costs.values())
    pieces: list[tuple[int, list[str]]] = []
    for whole, part in enumerate(parts):
        used = 0
        for i, name in enumerate(part):
            if i == 0 or used + costs[name] > limit:
                pieces.append((whole, []))
                used = 0
            pieces[-1][1].append(name)
            used += costs[name]
    return pieces


def _share(costs: Mapping[int, int], rank: int, world: int) -> list[int]:
    """The pieces of one rank: the dearest first, each to whom has least to do so far."""
    loads, mine = [0] * world, []
    for index in sorted(costs, key=lambda i: (-costs[i], i)):
        owner = loads.index(min(loads))
        loads[owner] += costs[index]
        if owner == rank:
            mine.append(index)
    return sorted(mine)


@contextmanager
def _ranks() -> Iterator[tuple[int, int, Any]]:
    """Rank, number of ranks and a barrier: of torchrun, or alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        yield 0, 1, lambda: None
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=7))  # ranks wait for the slowest
    try:
        yield distributed.get_rank(), world, distributed.barrier
    finally:
        distributed.destroy_process_group()


def _sources(options: Options) -> dict[str, str]:
    return {"base": options.base} | {f"model {task}": path for task, path in options.models.items()}


def _fingerprint(source: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a source: what says that an interrupted merge may go on."""
    path = locate(source)
    found = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in found]


if __name__ == "__main__":
    main()
