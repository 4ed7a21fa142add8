"""The lines of Python in README, docs/api.md and docs/methods.md, run as they stand there on three small files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]


def lines_of(page: str, after: str) -> str:
    """The first block of Python after some words of a page: fenced, or indented by four spaces."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(after)[2]
    fenced = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    if fenced:
        return fenced[1]
    block = re.search(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    assert block is not None
    return re.sub(r"^    ", "", block[0], flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "after"),
    [
        ("README.md", "## From Python"),
        ("docs/api.md", "# Python API"),
        ("docs/methods.md", "## Steps before and after a method"),
    ],
)
def test_lines_run(page: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "cars", "dtd"):
        tensors = {
            "layer.weight": torch.randn(12, 8, generator=generator),
            "layer.bias": torch.randn(12, generator=generator),
        }
        save_file(tensors, f"{name}.safetensors")
    names: dict[str, Any] = {}
    exec(lines_of(page, after), names)
    if "weights" in names:  # the methods page merges only
        assert names["weights"].keys() == names["base"].keys()
        assert not torch.equal(names["weights"]["layer.weight"], names["base"]["layer.weight"])
