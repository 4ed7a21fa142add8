"""Modules whose parameters have other names than in the file of the base."""

import copy
from pathlib import Path

import pytest
import torch

import tsv_exp
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse


def test_names_that_transformers_gives_in_memory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 12}
    config = transformers.ViTConfig(**sizes, image_size=4, patch_size=2, num_labels=3)
    torch.manual_seed(0)
    module = transformers.ViTForImageClassification(config).eval()
    module.save_pretrained(tmp_path / "base")
    generator = torch.Generator().manual_seed(1)
    for task in "ab":
        tuned = copy.deepcopy(module)
        with torch.no_grad():
            tuned.vit.layers[0].mlp.fc1.weight += 0.1 * torch.randn(12, 8, generator=generator)
        tuned.save_pretrained(tmp_path / task)
    words = [f"base={tmp_path}/base", f"models=[{tmp_path}/a,{tmp_path}/b]", f"out={tmp_path}/out", "method=individual"]
    run(parse([*words, "router=likelihood"]))
    served = tsv_exp.load(tmp_path / "out", module)
    wanted = transformers.ViTForImageClassification.from_pretrained(tmp_path / "b").state_dict()
    for name, weight in served.model("b").state_dict().items():
        torch.testing.assert_close(weight, wanted[name])
    assert served.predict({"pixel_values": torch.randn(1, 3, 4, 4)}).tasks[0] in ("a", "b")
