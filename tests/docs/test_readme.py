"""README's method of one's own, typed as it stands there, and its round from fine-tuning to evaluation."""

import json
import os
import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import forked
import pytest
from adapters import adapter, llama

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SMALL = "model.data.train=64 model.data.validation=16 model.data.test=16"


def blocks(heading: str, end: str) -> list[str]:
    """The indented blocks of a part of README."""
    part = README[README.index(heading) : README.index(end)]
    lines = [line[4:] if line.startswith("    ") else "" for line in part.splitlines()]
    return [block.strip("\n") for block in re.split(r"\n{2,}", "\n".join(lines)) if block.strip()]


def typed(line: str, folder: Path, *more: str, **environment: str) -> CompletedProcess[str]:
    program, *words = shlex.split(line, comments=True)
    given = os.environ | {"TSV_EXP_CACHE": str(folder / "cache")} | environment
    return forked.command(program.removeprefix("tsv-"), *words, *more, cwd=folder, env=given)


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("outputs/**/results.json")]


def test_one_new_method(tmp_path: Path) -> None:
    code, yaml, commands = blocks("**3. ", "is a five-minute tutorial")
    for block in (code, yaml):
        first, _, content = block.partition("\n")
        place = tmp_path / first.removeprefix("# ")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content + "\n", encoding="utf-8")
    export, sweep = commands.splitlines()
    name, _, value = export.removeprefix("export ").partition("=")
    given = os.pathsep.join(filter(None, (value, os.environ.get("PYTHONPATH"))))
    done = typed(sweep, tmp_path, *shlex.split(SMALL), "tasks=2", "model.finetune.steps=1", **{name: given})
    assert done.returncode == 0, done.stderr
    assert {one["method"]: one["status"] for one in found(tmp_path)} == {"half_sum": "ok", "tsv_m": "ok"}
    assert all(len(one["validation"]) == 30 for one in found(tmp_path))  # a grid of α without a word about it
    assert re.search(r"half_sum", done.stdout)


def test_from_fine_tuning_to_evaluation(tmp_path: Path) -> None:
    (commands,) = blocks("**4. ", "**5. ")
    *trainings, merge = commands.splitlines()
    for training in trainings:
        done = typed(training, tmp_path, *shlex.split(SMALL), "finetune.steps=1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("wrote checkpoints/tiny/")
    done = typed(merge, tmp_path, *shlex.split(SMALL), "alpha=1")
    assert done.returncode == 0, done.stderr
    (result,) = found(tmp_path)
    assert result["tasks"] == ["digits", "greek"]
    assert len(set(result["checkpoints"]["digests"].values())) == 3
    assert not list((tmp_path / "cache" / "tiny").glob("*.safetensors"))  # nothing was trained again


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_merging_ones_own_checkpoints(tmp_path: Path) -> None:
    for seed, name in enumerate(("BASE", "MODEL_A", "MODEL_B", "MODEL_C")):
        llama(tmp_path / name, seed)
    for seed, name in enumerate("ABC"):
        adapter(tmp_path / "BASE", tmp_path / f"LORA_{name}", seed)
    (commands,) = blocks("**5. ", "[docs/merging.md](docs/merging.md) is the guide.")
    for line in commands.splitlines():
        done = typed(line, tmp_path)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for path in ("merged/model.safetensors", "merged/README.md", "one_lora/adapter_model.safetensors"):
        assert (tmp_path / path).is_file(), path
    assert (tmp_path / "served" / "router.safetensors").is_file()
