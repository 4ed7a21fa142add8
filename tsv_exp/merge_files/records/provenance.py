"""Provenance of a merged model: README.md (the hub's model card) and JSON; a short form is in the files' metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tsv_exp
from tsv_exp.checkpoints import writer
from tsv_exp.checkpoints.configuration import PROVENANCE
from tsv_exp.checkpoints.sources import HUB_ID
from tsv_exp.merge_files.inputs import weight_files
from tsv_exp.merge_files.one_model import Finished
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.records.summary import norms
from tsv_exp.routing.serving.files import parameters_of
from tsv_exp.runtime.messages.counts import counted
from tsv_exp.runtime.messages.tables import table_row
from tsv_exp.storage.files import atomic
from tsv_exp.storage.known_digests import known_digests
from tsv_exp.versions import installed

_LIBRARIES = {  # by files in the folder, in order of precedence
    "adapter_config.json": "peft",
    "model_index.json": "diffusers",
    "modules.json": "sentence-transformers",
    "open_clip_config.json": "open_clip",
    "config.json": "transformers",
}


_SETTINGS = ("svd", "exclude", "stacks", "keep", "ignore", "vocabulary", "tokenizer")  # what else changes the result


def write_provenance(options: Options, finished: Mapping[str, Finished]) -> None:
    """Write README.md, tsv_merge.json and a .gitignore that excludes the recipe folders from uploads.

    Args:
        options: the options as typed.
        finished: component name -> merged model; "." is the model itself.
    """
    provenance = _whole(options, finished)
    texts = {
        PROVENANCE: json.dumps(provenance, indent=2, ensure_ascii=False) + "\n",
        "README.md": _card(options, provenance),
        ".gitignore": f"{writer.STATE}/\n",
    }
    for name, text in texts.items():
        with atomic(options.out / name) as path:
            path.write_text(text, encoding="utf-8")


def _whole(options: Options, finished: Mapping[str, Finished]) -> dict[str, Any]:
    first = next(iter(finished.values()))
    sources = ({} if options.base is None else {"base": options.base}) | options.models
    layers = {f"{part}/{name}": found for part, one in finished.items() for name, found in one.layers.items()}
    own, merged, scaled = norms(first.inputs.stream.tasks, layers)
    files: dict[str, dict[str, Path]] = {}
    for part, one in finished.items():
        for name, place in one.inputs.paths.items():
            prefix = "" if part == "." else f"{part}/"
            files.setdefault(name, {}).update({f"{prefix}{file.name}": file for file in weight_files(place)})
    digests = known_digests({file for several in files.values() for file in several.values()})
    return {
        "command": options.command,
        "tsv_exp": tsv_exp.__version__,
        "torch": installed("torch"),
        "rules": first.plan.description,
        "task": options.task,
        "form": options.form,
        "dtype": options.dtype,
        "weights": options.weights,
        "router": None if options.router is None else {"name": options.router.name, **parameters_of(options.router)},
        "settings": {name: getattr(options, name) for name in _SETTINGS},
        "inputs": {
            name: {
                "source": sources[name.removeprefix("model ")],
                "files": {shown: digests[file] for shown, file in several.items()},
            }
            for name, several in files.items()
        },
        "norms": {"models": dict(zip(first.inputs.stream.tasks, own, strict=True)), "merge": merged, "scaled": scaled},
    }


def _card(options: Options, provenance: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    sources = _adapted(options) + [entry["source"] for entry in provenance["inputs"].values()]
    library = next((name for file, name in _LIBRARIES.items() if (options.out / file).is_file()), None)
    data = ModelCardData(
        base_model=[source.partition("@")[0] for source in sources if _on_hub(source)] or None,
        base_model_relation="adapter" if options.form == "lora" else "merge",
        library_name=library,
        tags=["merge", "tsv_exp"],
    )
    rules = "\n".join(
        table_row([f"`{rule['layers']}`", rule["method"], f"{rule['alpha']:g}", _parameters(rule)])
        for rule in provenance["rules"]
    )
    inputs = "\n".join(
        table_row([name, f"`{entry['source']}`", file, f"`{sha256}`"])
        for name, entry in provenance["inputs"].items()
        for file, sha256 in entry["files"].items()
    )
    return f"""---
{data.to_yaml()}
---

# {options.out.name}

Merged from {counted(len(options.models), "model")} by tsv_exp {provenance["tsv_exp"]}:

```bash
{provenance["command"]}
```

| layers | method | α | parameters |
| --- | --- | ---: | --- |
{rules}
{_others(provenance)}
| input | source | file | SHA-256 |
| --- | --- | --- | --- |
{inputs}

`{PROVENANCE}` contains the same in machine-readable form.
"""


def _others(provenance: Mapping[str, Any]) -> str:
    """A line with the options besides the rules, if there are any: a configuration file is not part of the command."""
    given = {name: provenance[name] for name in ("weights", "task", "dtype", "router")} | provenance["settings"]
    told = [f"`{name}={value}`" for name, value in given.items() if value and (name, value) != ("svd", "auto")]
    return f"\nOther options: {', '.join(told)}\n" if told else ""


def _parameters(rule: Mapping[str, Any]) -> str:
    given = {"rank": rule.get("rank")} | rule["parameters"]
    return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)


def _adapted(options: Options) -> list[str]:
    """The model that an adapter belongs to, which need not be among the inputs."""
    config = options.out / "adapter_config.json"
    if options.form != "lora" or options.base is not None or not config.is_file():
        return []
    named = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    return [] if named is None else [str(named)]


def _on_hub(source: str) -> bool:
    return bool(HUB_ID.fullmatch(source)) and not Path(source).expanduser().exists()
