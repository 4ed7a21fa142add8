"""The commands and the program of docs/router.md, as they stand there, on the small CLIP."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tsv_exp.config import conf_dir
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of
from tsv_exp.models.tiny import network

PAGE = (Path(__file__).parents[2] / "docs" / "router.md").read_text(encoding="utf-8")


def test_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = network.pretrained_clip().visual
    base = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    save_file(base, "base.safetensors")
    generator = torch.Generator().manual_seed(0)
    for task in ("digits", "clock"):
        moved = {name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in base.items()}
        save_file(moved, f"{task}.safetensors")
    (command,) = re.findall(r"^tsv-merge .*router=.*$", PAGE, re.MULTILINE)
    run(options_of(shlex.split(command)[1:]))
    files = {path.name for path in Path("served").iterdir()}
    assert {"merged.safetensors", "merged.json", "router.safetensors", "router.json"} <= files
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    images = torch.randn(3, 3, 28, 28, generator=generator)
    names = {"encoder": encoder, "images": images, "digits_head": nn.Linear(64, 10), "clock_head": nn.Linear(64, 12)}
    capsys.readouterr()
    exec(program, names)
    tasks, shape, answers = capsys.readouterr().out.splitlines()
    assert set(re.findall(r"\w+", tasks)) <= {"digits", "clock"}
    assert shape == "torch.Size([3, 2])"
    assert len(answers.split(",")) == 3
    assert isinstance(names["clock_encoder"], nn.Module)


def test_the_page_names_every_router() -> None:
    options = {path.stem for path in (conf_dir() / "router").glob("*.yaml")}
    assert set(re.findall(r"^\| `router=(\w+)`", PAGE, re.MULTILINE)) == options
