"""Merges the checkpoint files of one model, a few layers at a time."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tsv_exp.checkpoints import writer
from tsv_exp.config import Engine
from tsv_exp.decompositions.build import build_algebra, log_fallbacks
from tsv_exp.errors import UserError
from tsv_exp.merge_files.adapter_output import LoraAdapter
from tsv_exp.merge_files.forms import ByTask, Form, WholeModel
from tsv_exp.merge_files.inputs import Inputs
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.options.rules import Plan
from tsv_exp.merge_files.records.measures import Measured, Record
from tsv_exp.merge_files.records.metadata import short_form
from tsv_exp.merge_files.work import Work
from tsv_exp.routing.serving.files import parameters_of
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.messages.counts import counted
from tsv_exp.runtime.parallel.distributed import assigned, process_group, split_work
from tsv_exp.storage.digests import digest
from tsv_exp.versions import program


@dataclass(frozen=True)
class Finished:
    """One merged model: a whole checkpoint, or a component of a pipeline."""

    options: Options
    plan: Plan
    inputs: Inputs
    layers: Mapping[str, Measured]
    size: str


def check_model(options: Options) -> None:
    """Raise a UserError for inputs that do not fit; nothing is merged or written."""
    Inputs.open(options, _engine(options)).configuration(options)


def _engine(options: Options) -> Engine:
    engine = Engine(svd=options.svd, exclude=options.exclude, keep=options.keep, ignore=options.ignore)
    if options.stacks is not None:
        engine.stacks = options.stacks
    return engine


def merge_model(options: Options, plan: Plan) -> Finished | None:
    """Merge one model by a plan and write it; returns None on the ranks of torchrun that do not finish it.

    Raises:
        UserError: for errors that the user can correct.
    """
    engine = _engine(options)
    inputs = Inputs.open(options, engine)
    settings = [
        options.task,
        options.dtype,
        options.shard_mb,
        options.form,
        options.weights,
        engine.svd,
        [list(engine.excluded), engine.stacks, engine.keep, engine.ignore],
        [options.vocabulary, options.tokenizer],
        *([] if options.router is None else [[options.router.name, parameters_of(options.router)]]),
    ]
    recipe = digest(program(), plan.description, settings, inputs.fingerprints())
    with process_group() as (rank, world, wait), ExitStack() as held:
        algebra = build_algebra(engine, inputs.stream.compute_device)
        bound = plan.bind(inputs.stream, algebra, options.form == "lora")
        form = _form(Work(options, inputs, plan, bound, algebra, {}))
        parts = writer.shards(form.sizes, form.limit)
        output = writer.Output(options.out, form.stem, len(parts), recipe, short_form(options, plan), options.beside)
        record = Record(options.out / writer.STATE)
        if rank == 0:
            held.enter_context(output.prepared(options.wait))
        wait()
        shapes = {name: inputs.stream.base[name].shape for name in form.sizes}
        costs = {name: shape.numel() * min(shape, default=1) for name, shape in shapes.items()}
        work = split_work(parts, costs, world)
        known, merged = record.load().keys(), set(inputs.stream.names)
        mine = assigned({i: sum(costs[name] for name in names) for i, (_, names) in enumerate(work)}, rank, world)
        with bar(f"merging {options.method}", sum(len(work[i][1]) for i in mine)) as (progress, shown):
            for whole, names in (work[i] for i in mine):
                file = output.files[whole] if names == parts[whole] else output.piece(output.files[whole], names)
                # its measures are stored after a file, so that they are missing if the process was killed between
                written = output.finished(output.files[whole]) or output.finished(file)
                if written and known >= merged.intersection(names):
                    progress.advance(shown, len(names))
                else:
                    try:
                        output.write(file, *form.content(names, lambda: progress.advance(shown)))
                    except UserError as error:
                        if world == 1 and error.__cause__ is None:  # of values, not of the system
                            output.discard()
                        raise
                    record.save(file, form.work.measured)
        log_fallbacks(algebra)
        wait()
        for whole in range(rank, len(parts), world):
            cut = [output.piece(output.files[whole], names) for index, names in work if index == whole]
            if len(cut) > 1 and not output.finished(output.files[whole]):
                output.assemble(output.files[whole], cut)
        wait()
        if rank == 0:
            form.describe(options.out, output.digests)
            size = output.finish(form.configuration)
            return Finished(
                options, plan, inputs, record.load(), f"{size / 1e6:.1f} MB in {counted(len(parts), 'file')}"
            )
    return None


def _form(work: Work) -> Form:
    """The output form: an adapter if configured, else one model or the parts of one model per task."""
    task = work.options.task
    per_task = work.plan.per_task(work.stream, work.bound, task)
    if task is not None and not per_task:
        raise UserError(f"task={task}: the result is one model for all tasks; leave task= out")
    by_task = per_task and task is None
    if work.options.router is not None and not by_task:
        raise UserError(
            f"router={work.options.router.name}: the result is one model for all tasks; choose a method with a model "
            "per task (tsv_c, tall_mask, emr, individual), and neither task= nor form=lora"
        )
    if work.options.form != "lora":
        return ByTask(work) if by_task else WholeModel(work)
    if per_task:
        raise UserError("form=lora: choose a method with one model for all tasks")
    return LoraAdapter(work)
