"""PEFT's adapters of nn.MultiheadAttention, as open_clip's towers have it."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tsv_exp import UserError
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")


class Towers(nn.Module):
    """Two towers of different widths: the names of one are ends of the other's."""

    def __init__(self):
        super().__init__()
        self.text, self.visual = self.tower(8), nn.ModuleDict({"text": self.tower(16)})

    @staticmethod
    def tower(width):
        return nn.ModuleDict({"attn": nn.MultiheadAttention(width, 2), "fc": nn.Linear(width, width)})

    def forward(self, x):
        for tower, y in ((self.text, x[..., :8]), (self.visual["text"], x)):
            y = tower["fc"](tower["attn"](y, y, y)[0])
            yield y


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    model = Towers()
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    return model


def test_factors_of_attention_are_named_by_their_module(model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    rank = {"visual.text.attn": 3}
    config = LoraConfig(r=2, target_modules=["attn", "fc"], init_lora_weights=False, rank_pattern=rank)
    get_peft_model(copy.deepcopy(model), config).save_pretrained(tmp_path / "lora")
    base = open_weights(tmp_path / "base.safetensors")
    with pytest.raises(UserError, match=r"adds the factors of 'text\.attn\.out_proj\.weight' twice.*merge_and_unload"):
        open_weights(tmp_path / "lora", base)
    found = open_weights(tmp_path / "lora", base, ignore=["*.out_proj.weight"])
    wanted = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora").merge_and_unload().state_dict()
    changed = [name for name in base if "out_proj.weight" not in name]
    for name in changed:
        torch.testing.assert_close(found[name], wanted[name])
    assert sum(not torch.equal(found[name], base[name]) for name in changed) == 4
    run(parse([f"models={tmp_path / 'lora'}", "method=weight_average", "form=lora", f"out={tmp_path / 'out'}"]))
    again = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "out").merge_and_unload().state_dict()
    for name, weight in wanted.items():
        torch.testing.assert_close(again[name], weight)


def test_extraction(model, tmp_path, capsys):
    from peft import PeftModel

    tuned = copy.deepcopy(model)
    for name, weight in tuned.named_parameters():
        if weight.dim() == 2 and "out_proj" not in name:
            weight.data += 0.3 * torch.randn_like(weight)
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    words = [f"base={tmp_path / 'base.safetensors'}", f"models={tmp_path / 'tuned.safetensors'}"]
    run(parse([*words, "method=weight_average", "form=lora", "rank=16", f"out={tmp_path / 'out'}"]))
    assert "change them: text.attn.out_proj.weight, visual.text.attn.out_proj.weight" in capsys.readouterr().err
    adapted, x = PeftModel.from_pretrained(model, tmp_path / "out"), torch.randn(3, 1, 16)
    for found, wanted in zip(adapted(x), tuned(x), strict=True):
        torch.testing.assert_close(found, wanted)
