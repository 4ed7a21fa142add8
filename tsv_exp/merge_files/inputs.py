"""Opens the inputs of a merge: base and models."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tsv_exp.checkpoints.adapters import factors as adapter_factors
from tsv_exp.checkpoints.adapters.base_names import check_base, check_names, warn_of_other_bases
from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.checkpoints.adapters.lora_config import changes_base
from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.checkpoints.folders import existing_weights_file
from tsv_exp.checkpoints.sources import adapter_file, folder_of, locate, open_models, open_weights, stored
from tsv_exp.checkpoints.vocabulary import rows as vocabularies
from tsv_exp.checkpoints.vocabulary.conflicts import warn_of_other_tokens
from tsv_exp.config import Engine
from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.options.rules import check_patterns
from tsv_exp.merging.changed import weighted
from tsv_exp.merging.inputs.alignment import align
from tsv_exp.merging.layer import Weights
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.runtime.parallel.distributed import rank_device


@dataclass(frozen=True)
class Inputs:
    """The inputs of a merge.

    Args:
        stream: the task vectors.
        paths: name -> file or folder, for the base and each model.
        adapters: the models, if all are adapters and no base was opened; else empty.
        vocabulary: the rows of embeddings, if matched by token.
    """

    stream: TaskVectors
    paths: Mapping[str, Path]
    adapters: Mapping[str, adapter_factors.Adapter]
    vocabulary: vocabularies.Vocabulary | None = None

    @classmethod
    def open(cls, options: Options, engine: Engine) -> "Inputs":
        """Open the inputs in the options.

        Raises:
            UserError: an input is missing, damaged, or does not match the others.
        """
        device = rank_device(options.device) if options.device else None
        found = {f"model {task}": locate(path) for task, path in options.models.items()}
        adapters: dict[str, adapter_factors.Adapter] = {}
        base: Weights
        models: dict[str, Weights]
        files = {task: adapter_file(found[f"model {task}"]) for task in options.models}
        if options.form == "lora" and None not in files.values():
            opened = None
            if options.base is not None and any(file and changes_base(file.parent) for file in files.values()):
                found = {"base": locate(options.base)} | found
                opened = open_weights(options.base)
            for task, file in files.items():
                if file:
                    adapters[task] = adapter_factors.Adapter.open(file, opened, options.ignore)
            adapters = adapter_factors.aligned(adapters)
            named = None if options.base is None else stored(options.base)
            if named is not None:
                check_base(adapters, named, str(options.base))
            base = adapter_factors.stand_in(adapters)
            if named is None:
                check_names(adapters)
            models = {task: adapter_factors.FactoredModel(adapter, base) for task, adapter in adapters.items()}
        else:
            if options.base is None:
                other = next(task for task, file in files.items() if file is None)
                weight_files(found[f"model {other}"])  # a folder without any is told what it holds
                raise UserError(f"base is missing; model {other!r} is no adapter in PEFT's format, so it is needed")
            found = {"base": locate(options.base)} | found
            base = open_weights(options.base)
            models = open_models(options.models, base, options.keep, options.ignore)
        if not options.component:
            warn_of_other_bases({task: file.parent for task, file in files.items() if file}, options.base)
            check_patterns(options, [base], (name for model in models.values() for name in own_names(model)))
        vocabulary = None
        folders: dict[str | None, Path | None] = {None: folder_of(found["base"])} if "base" in found else {}
        folders |= {task: folder_of(found[f"model {task}"]) for task in models}
        if (options.vocabulary or options.tokenizer) and not options.component:
            if options.form == "lora" or "base" not in found:
                raise UserError("vocabulary and tokenizer are for whole models; leave them out, or form=lora")
            for task, model in models.items():
                models[task] = align(base, model, engine.keep, engine.ignore, f"model {task!r}")
            vocabulary = vocabularies.plan(base, models, folders, options.vocabulary, options.tokenizer)
            wide = vocabulary.of_base(base, models)
            models = {task: vocabulary.of_model(task, model, wide) for task, model in models.items()}
            base = wide
        elif not options.component:
            whole = [task for task in folders if task is None or not isinstance(models[task], ChangedModel)]
            warn_of_other_tokens({task: folders[task] for task in whole})
        stream = TaskVectors.of(base, models, engine, device)
        if unknown := sorted(set(options.weights) - set(stream.tasks)):
            raise UserError(f"weights: there is no model {unknown[0]!r}; choose from: {', '.join(stream.tasks)}")
        stream = weighted(stream, options.weights)
        if options.task is not None and options.task not in stream.tasks:
            raise UserError(f"task={options.task}: choose from: {', '.join(stream.tasks)}")
        return cls(stream, found, adapters, vocabulary)

    def configuration(self, options: Options) -> Configuration | None:
        """The configuration files of a whole model, if the base is a folder."""
        if self.base_folder is None:
            return None
        other = options.tokenizer is not None and not options.component
        tokenizer = folder_of(self.paths[f"model {options.tokenizer}"]) if other else None
        found = self.vocabulary
        values, files = (found.values, found.files) if found else ({}, {})
        configuration = Configuration(self.base_folder, options.dtype, values, files, tokenizer, options.beside)
        configuration.check()
        return configuration

    @property
    def base_folder(self) -> Path | None:
        """The folder of the base model, if it has one."""
        return folder_of(self.paths["base"]) if "base" in self.paths else None

    def fingerprints(self) -> dict[str, list[tuple[str, int, int]]]:
        """Names, sizes and modification times of all files: an interrupted merge resumes only if they are unchanged."""
        return {name: _fingerprint(path) for name, path in self.paths.items()}


def own_names(model: Weights) -> Iterable[str]:
    """The names of a model's tensors, as it has them itself; an adapter's are those that it changes."""
    return model.own_names if isinstance(model, ChangedModel) else model


def files_of(path: Path) -> list[Path]:
    """The files of a source."""
    folder = folder_of(path)
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder else [path]


def weight_files(place: Path) -> list[Path]:
    """The weight files of a source."""
    file = adapter_file(place) or place
    if file.is_dir():
        file = existing_weights_file(file)
    if not file.name.endswith(".index.json"):
        return [file]
    return sorted({file.parent / shard for shard in json.loads(file.read_text())["weight_map"].values()})


def _fingerprint(path: Path) -> list[tuple[str, int, int]]:
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(path)]
