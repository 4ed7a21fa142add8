"""tsv-finetune adapter=true: what is written is the model that was trained, for PEFT and for this project."""

import re
from pathlib import Path

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
from tsv_exp.finetuning.lora import Lora, targets

pytestmark = pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|tie|config file):")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = saved(tmp_path / "base", network("bert"))
    tokenizer(folder, "token_type_ids")
    task = tmp_path / "conf" / "task" / "mood.yaml"
    task.parent.mkdir(parents=True)
    task.write_text(f"data: {{path: {sentences(tmp_path / 'data')}, input: text, label: label}}\ntemplates: ['a {{}}']")
    return folder


def finetuned(base: Path, *overrides: str) -> Path:
    given = [f"hydra.searchpath=[file://{base.parent}/conf]", f"model.pretrained={base}", f"output={base.parent}/out"]
    given += ["model=text_encoder", "task=mood", "device=cpu", "model.length=10", "finetune.precision=float32"]
    return trained(*given, "epochs=1", "finetune.lr=1e-2", *overrides)


def trained(*typed: str) -> Path:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("finetune", list(typed), return_hydra_config=True)
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


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.fc = nn.MultiheadAttention(4, 2), nn.Linear(4, 4)
        self.proj = nn.Parameter(torch.zeros(4, 4))


def test_matrices_that_peft_cannot_adapt_are_all_named_with_targets_that_it_can() -> None:
    encoder = nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()]), "head": nn.Linear(4, 3)})
    names = [name for name, parameter in encoder.named_parameters() if parameter.dim() == 2]
    said = (
        "adapter=true: PEFT has factors for plain linear layers only, not for blocks.*.proj, "
        "blocks.*.attn.in_proj_weight, blocks.*.attn.out_proj.weight; "
        'give "finetune.lora.targets=[blocks.*.fc.weight, head.weight]", or leave adapter=true out'
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        check_adaptable(encoder, names)
    check_adaptable(encoder, targets(encoder, ["*"], Lora(targets=("blocks.*.fc.weight", "head.weight"))))


def test_without_a_linear_layer_only_whole_weights_are_left() -> None:
    with pytest.raises(UserError, match=r"not for attn\.in_proj_weight; leave adapter=true out$"):
        check_adaptable(Block(), ["attn.in_proj_weight"])


def test_the_targets_that_the_embedded_benchmark_is_told_can_be_trained(tmp_path: Path) -> None:
    typed = ["model=tiny", "task=clock", "device=cpu", "model.data.train=8"]
    typed += ["finetune=lora", "adapter=true", f"output={tmp_path}"]
    with pytest.raises(UserError, match=r"not for proj, \S+\.in_proj_weight, \S+\.out_proj\.weight; give") as raised:
        trained(*typed)
    (told,) = re.findall(r'"(.*?)"', str(raised.value))
    assert trained(*typed, told, "finetune.steps=1", "finetune.batch_size=4").is_file()
