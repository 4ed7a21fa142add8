"""tsv-finetune adapter=true: what is written is the model that was trained, for PEFT and for this project."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import network, saved, sentences, tokenizer
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from safetensors.torch import load_file
from torch import nn

from tsv_exp.checkpoints.adapters.writer import check_adaptable
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.commands.finetuning import run
from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|tie|config file):")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    folder = saved(tmp_path / "base", network("bert"))
    tokenizer(folder, "token_type_ids")
    task = tmp_path / "conf" / "task" / "mood.yaml"
    task.parent.mkdir(parents=True)
    task.write_text(f"data: {{path: {sentences(tmp_path / 'data')}, input: text, label: label}}\ntemplates: ['a {{}}']")
    return folder


def finetuned(base: Path, *overrides: str) -> Path:
    given = [f"hydra.searchpath=[file://{base.parent}/conf]", f"model.pretrained={base}", f"output={base.parent}/out"]
    given += ["model=text_encoder", "task=mood", "device=cpu", "model.length=10", "finetune.precision=float32"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("finetune", [*given, "epochs=1", "finetune.lr=1e-2", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return run(cfg, 0, lambda: None)


@pytest.mark.parametrize("alpha", ["null", "3"])
def test_peft_and_this_project_read_the_trained_model(base: Path, alpha: str) -> None:
    settings = ["finetune=lora", "finetune.lora.rank=2", f"model.finetune.lora.alpha={alpha}"]
    whole = load_file(finetuned(base, *settings))
    file = finetuned(base, *settings, "adapter=true")
    assert file == base.parent / "out" / "text_encoder" / "mood" / "adapter_model.safetensors"
    assert sorted(path.name for path in file.parent.iterdir()) == ["adapter_config.json", file.name]
    ours = open_weights(file.parent, open_weights(base))
    from peft import PeftModel  # slow imports
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(base)
    theirs = PeftModel.from_pretrained(plain, file.parent).merge_and_unload().state_dict()
    changed = 0
    for name, weight in whole.items():
        torch.testing.assert_close(ours[f"bert.{name}"], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-6)
        changed += not torch.equal(weight, open_weights(base)[f"bert.{name}"])
    assert changed >= 12  # six matrices per layer


def test_a_run_takes_the_folder_of_adapters(base: Path) -> None:
    file = finetuned(base, "finetune=lora", "finetune.lora.rank=2", "adapter=true")
    from tsv_exp.models.locate import locate

    assert locate(str(file.parent.parent), "text_encoder").paths == {"mood": str(file.parent)}


def test_adapters_need_factors(base: Path) -> None:
    with pytest.raises(UserError, match="adapter=true: an adapter needs low-rank factors; give finetune=lora too"):
        finetuned(base, "adapter=true")


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "attn.out_proj.weight", "proj"])
def test_matrices_that_peft_cannot_adapt_are_named(name: str) -> None:
    encoder: Any = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    encoder.proj = nn.Parameter(torch.zeros(4, 4))
    check_adaptable(encoder, ["fc.weight"])
    with pytest.raises(UserError, match=f"adapter=true: {re.escape(name)} is not the weight of a plain linear layer"):
        check_adaptable(encoder, ["fc.weight", name])
