"""docs/new_method.md, done as it stands there: a method from a folder outside the repository, swept beside others."""

import json
import os
import re
import shlex
from pathlib import Path

import forked
import pytest
import torch
from models import close, zoo

import tsv_exp

PAGE = (Path(__file__).parents[2] / "docs" / "new_method.md").read_text(encoding="utf-8")
SMALL = (
    "tasks=2 model.finetune.steps=1 model.data.train=64 model.data.validation=16 model.data.test=16 "
    "alpha=fixed alpha.value=0.5 seed=77"
)


def block(after, language):
    """The first code block of a language after some words of the page."""
    return re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(after) :], re.DOTALL)[1]


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine"
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "median.py").write_text(block("## 1.", "python"))
    (folder / "conf" / "method" / "median.yaml").write_text(block("## 2.", "yaml"))
    return folder


def test_the_sweep_of_the_page(mine):
    lines = block("## 3.", "bash").splitlines()
    assert lines[0] == "export PYTHONPATH=mine"
    sweep = next(line for line in lines if line.startswith("tsv-exp -m"))
    words = shlex.split(sweep.replace("$PWD", str(mine.parent)))[1:]
    small = [word for word in words if not word.startswith("tasks=")] + shlex.split(SMALL)
    environment = os.environ | {"PYTHONPATH": "mine", "TSV_EXP_CACHE": str(mine.parent / "cache")}
    done = forked.command("exp", *small, cwd=mine.parent, env=environment)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in mine.parent.glob("outputs/**/results.json")]
    assert {result["method"]: result["status"] for result in found} == dict.fromkeys(
        ["median", "weight_average", "tsv_m"], "ok"
    )
    (table,) = [path for path in mine.parent.glob("outputs/**/table.md") if not (path.parent / "results.json").exists()]
    assert re.search(r"^\| median\b", table.read_text(), re.MULTILINE)
    assert re.search(r"^\| tsv_m\b", table.read_text(), re.MULTILINE)


def test_the_lines_of_python(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    base, finetuned = zoo(3, torch.float32)
    names = {"base": base, "finetuned": finetuned}
    exec(block("From Python", "python"), names)
    deltas = torch.stack([model["conv.weight"] - base["conv.weight"] for model in finetuned.values()])
    expected = base["conv.weight"] + deltas.quantile(0.4, dim=0)
    close({"w": names["weights"]["conv.weight"]}, {"w": expected.double()}, 1e-6)
    merged = tsv_exp.merge(base, finetuned, names["method"]).vector()["conv.weight"]
    close({"w": merged}, {"w": deltas.median(0).values.double()}, 1e-6)
