"""Layouts of quantized checkpoints, as the libraries write them; the codes are random."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp import UserError, merge
from tsv_exp.checkpoints.sources import open_weights


class NotATensor:
    """What torchao's tensors are to a reader that does not run their code."""


NORM = {"norm.weight": torch.ones(8)}
LAYOUTS = {
    "bitsandbytes 4 bit": {
        "q.weight": torch.zeros(32, 1, dtype=torch.uint8),
        "q.weight.absmax": torch.ones(1),
        "q.weight.quant_map": torch.ones(16),
        "q.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    },
    "bitsandbytes 8 bit": {"q.weight": torch.zeros(8, 8, dtype=torch.int8), "q.SCB": torch.ones(8)},
    "gptq and awq": {
        "q.qweight": torch.zeros(1, 8, dtype=torch.int32),
        "q.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "q.scales": torch.ones(1, 8).half(),
    },
    "fp8 with scales": {"q.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.ones(1, 1)},
    "fp8 experts": {
        "experts.gate_up_proj": torch.zeros(2, 8, 8).to(torch.float8_e4m3fn),
        "experts.gate_up_proj_scale_inv": torch.ones(2, 1, 1),
    },
    "fp8 of ComfyUI": {"q.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn), "q.scale_weight": torch.ones(1)},
    "fp8 of quanto": {"q.weight._data": torch.zeros(8, 8).to(torch.float8_e4m3fn), "q.weight._scale": torch.ones(8, 1)},
    "fp8 of DeepSeek": {"q.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn), "q.scale": torch.ones(1, 1)},
    "mxfp4": {
        "experts.down_proj_blocks": torch.zeros(2, 8, 1, 16, dtype=torch.uint8),
        "experts.down_proj_scales": torch.zeros(2, 8, 1, dtype=torch.uint8),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_and_scales_are_not_merged(tmp_path, layout):
    save_file(LAYOUTS[layout] | NORM, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a.safetensors is quantized \(its tensor '.*dequantize"):
        open_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("nested", [False, True])
def test_what_the_configuration_says(tmp_path, nested):
    said = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": said} if nested else said))
    save_file(NORM, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"is quantized \(awq in its config.json\)"):
        open_weights(tmp_path)
    open_weights(tmp_path / "model.safetensors")  # a file by itself may lie beside any configuration


def test_weights_that_a_library_pickles_are_not_read_first(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "torchao"}}))
    torch.save({"q.weight": NotATensor()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"is quantized \(torchao in its config.json\)"):
        open_weights(tmp_path)


def test_weights_that_look_alike(tmp_path):
    weights = NORM | {
        "blocks": torch.ones(2, 2),
        "weight_scale": torch.ones(1),
        "plain8": torch.zeros(4, 4).to(torch.float8_e5m2),
        "logit_scale": torch.ones(()),
        "position_ids": torch.arange(6),
        "layer_scale": torch.ones(4),
    }
    save_file({name: weight for name, weight in weights.items() if name != "plain8"}, tmp_path / "a.safetensors")
    save_file({name: weights[name] for name in ("plain8", "logit_scale", "layer_scale")}, tmp_path / "b.safetensors")
    for name in "ab":
        open_weights(tmp_path / f"{name}.safetensors")


def test_integers_that_differ_between_models():
    base = NORM | {"codes": torch.zeros(4, 4, dtype=torch.int8), "count": torch.tensor(0)}
    merge(base, {"a": base | {"count": torch.tensor(3)}})
    with pytest.raises(UserError, match=r"integers of tensor 'codes' of model 'a' are not the base's.*dequantize"):
        merge(base, {"a": base | {"codes": torch.ones(4, 4, dtype=torch.int8)}})
