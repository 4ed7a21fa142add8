"""Adapters of parameters (target_parameters), as the experts of a layer: what is read is what PEFT adds to the base."""

import json

import pytest
import torch
from adapters import configure
from experts import KINDS, PARAMETERS, adapt, mixture
from safetensors.torch import load_file, save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.adapters import factors
from tsv_exp.checkpoints.adapters.parameters import straight
from tsv_exp.checkpoints.sources import open_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*_pattern keys did not match:RuntimeWarning"),  # those of parameters do
]


def made(folder, kind, dtype=torch.float64, sizes=None, **options):
    """The base, the adapter and PEFT's model, as read."""
    mixture(kind, folder / "base", dtype=dtype, **(sizes or {}))
    adapt(folder / "base", folder / "lora", folder / "merged", **KINDS[kind][1] | options)
    base = open_weights(folder / "base")
    return base, open_weights(folder / "lora", base), open_weights(folder / "merged")


def agree(base, adapter, merged):
    """That changes are those of PEFT; returns the names of the changed weights."""
    assert set(base) == set(merged)
    changed = []
    for name in base:
        wanted = merged[name] - base[name]
        found = adapter.delta(name, torch.float64)
        assert (found is not None) == bool(wanted.any()), name
        if found is None:
            continue
        changed.append(name)
        assert (found - wanted).norm() < 1e-12 * wanted.norm(), name
        if found.dim() == 2:
            assert (adapter.factors(name, torch.float64).dense() - found).norm() < 1e-12 * found.norm()
        for index in range(len(found) if found.dim() == 3 else 0):
            one = adapter.sliced(name, index)
            assert (one.factors(name, torch.float64).dense() - found[index]).norm() < 1e-12 * found.norm()
            assert (one.delta(name, torch.float64) - found[index]).norm() < 1e-12 * found.norm()
            assert (one[name] - merged[name][index]).norm() < 1e-12 * merged[name].norm()
    return changed


COUNTS = {
    "Qwen3Moe": 2 + 1 + 3 * 4,
    "Mixtral": 2 * (1 + 3 * 4),
    "Olmoe": 2 * 3 * 4,
    "GptOss": 2 * 5,
    "GraniteMoe": 2 * 3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_adds(tmp_path, kind):
    assert len(agree(*made(tmp_path, kind))) == COUNTS[kind]


def test_one_expert_is_as_a_linear_layer(tmp_path):
    sizes = {"num_local_experts": 1, "num_experts_per_tok": 1, "intermediate_size": 8}
    assert len(agree(*made(tmp_path, "GraniteMoe", sizes=sizes))) == 6


def test_matrices_that_are_stored_transposed_are_known_by_their_shape(tmp_path):
    """As PEFT before 0.19 stored all factors, and as files of Qwen3-VL-MoE store the weights."""
    base, _, merged = made(tmp_path, "GraniteMoe", target_modules=[])
    turned = {name: base[name].mT.contiguous() if base[name].dim() == 3 else base[name] for name in base}
    save_file(turned, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    base = open_weights(tmp_path / "base")
    adapter = open_weights(tmp_path / "lora", base)
    for name in base:
        if base[name].dim() == 3:
            wanted = merged[name].mT - base[name]
            assert (adapter.delta(name, torch.float64) - wanted).norm() < 1e-12 * wanted.norm()


@pytest.mark.parametrize(
    ("version", "transposed", "expected"),
    [
        ("0.21.2", False, True),
        ("0.21.2", True, False),
        ("0.19.1", False, True),
        ("0.20.1.dev0@abc1234", True, False),
        ("0.19.0", False, None),
        ("0.19.0", True, None),
        ("0.18.1.dev0", True, None),
        ("0.18.0", True, False),
        ("", True, False),  # 0.17
        ("0.18.0", False, None),
        ("", False, None),
        ("0.21.2", None, None),
    ],
)
def test_which_way_square_matrices_are_stored(version, transposed, expected):
    assert straight(8, torch.Size((4, 8, 8)), version, transposed) is expected
    assert straight(8, torch.Size((4, 8, 6)), version, transposed) is True
    assert straight(6, torch.Size((4, 8, 6)), version, transposed) is False


def test_square_matrices_of_an_older_version_are_told_the_remedy(tmp_path):
    base, _, _ = made(tmp_path, "Olmoe")
    configure(tmp_path / "lora", peft_version="0.18.0")
    with pytest.raises(UserError, match=r"square matrices in 'model.layers.0.mlp.experts.gate_up_proj'.*merge_and"):
        open_weights(tmp_path / "lora", base)


def test_a_base_of_an_unknown_model(tmp_path):
    """One parameter of a module is known by its name, two are not; the order in a file tells nothing."""
    mixture("GraniteMoe", tmp_path / "base", dtype=torch.float64)
    one = {"target_parameters": PARAMETERS[1:], "target_modules": ["q_proj"]}
    for name, options in (("one", one), ("two", KINDS["GraniteMoe"][1])):
        adapt(tmp_path / "base", tmp_path / name, tmp_path / f"{name}-merged", **options)
    renamed = {  # as in memory
        name.replace("output_linear.weight", "experts.down_proj").replace(
            "input_linear.weight", "experts.gate_up_proj"
        ): w
        for name, w in open_weights(tmp_path / "base").items()
    }
    merged = open_weights(tmp_path / "one-merged")
    adapter = open_weights(tmp_path / "one", renamed)
    name = "model.layers.1.block_sparse_moe.experts.down_proj"
    wanted = merged["model.layers.1.block_sparse_moe.output_linear.weight"] - renamed[name]
    assert (adapter.delta(name, torch.float64) - wanted).norm() < 1e-12 * wanted.norm()
    with pytest.raises(UserError, match=r"which parameters of .*experts' its factors change.*config.json"):
        open_weights(tmp_path / "two", renamed)


def test_parameters_that_are_left_out(tmp_path):
    base, _, _ = made(tmp_path, "Qwen3Moe")
    left = {
        name
        for name in base
        if open_weights(tmp_path / "lora", base, ignore=["*gate_up_proj"]).delta(name, torch.float64) is not None
    }
    assert len(left) == 2 + 1 + 4
    kept = open_weights(tmp_path / "lora", base, keep=["*experts.2.*"])
    assert sum(kept.delta(name, torch.float64) is not None for name in base) == 2 + 1 + 9


def test_factors_of_other_ranks_and_shapes(tmp_path):
    base, _, _ = made(tmp_path, "Mixtral")
    file = tmp_path / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rank_pattern": {}}))
    with pytest.raises(UserError, match=r"gate_up_proj' have rank 24 and 24, its configuration says 12"):
        open_weights(tmp_path / "lora", base)
    file.write_text(json.dumps(config))
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight"
    save_file(weights | {key: weights[key][:40].clone()}, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"gate_up_proj' has shape \(4, 40, 16\), in the base \(4, 48, 16\); wrong base"
    ):
        open_weights(tmp_path / "lora", base)


def test_initializations_that_peft_does_not_have_for_experts(tmp_path):
    base, _, _ = made(tmp_path, "Mixtral")
    configure(tmp_path / "lora", init_lora_weights="pissa")
    with pytest.raises(UserError, match=r"pissa of 'model.layers.0.mlp.experts.gate_up_proj', which is 3-D"):
        open_weights(tmp_path / "lora", base)


def test_a_rank_that_is_no_whole_number(tmp_path):
    base, _, _ = made(tmp_path, "GraniteMoe")
    configure(tmp_path / "lora", rank_pattern={".*experts.*": 2.5})
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for key, factor in weights.items():
        if "experts" in key:
            weights[key] = (factor[:10] if "lora_A" in key else factor[:, :10]).clone()
    save_file(weights, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="have rank 10 and 10, its configuration says 10"):
        open_weights(tmp_path / "lora", base)


def test_an_expert_of_another_shape(tmp_path):
    made(tmp_path, "Mixtral")
    file = tmp_path / "base" / "model.safetensors"
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    weights = load_file(file)
    save_file(weights | {name: weights[name][:, :8].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"'{name}' has shape \(24, 16\), in the base \(24, 8\)"):
        open_weights(tmp_path / "lora", open_weights(tmp_path / "base"))


@pytest.mark.parametrize("names", ["experts.down_proj", [1], {"a": 1}])
def test_names_of_parameters_that_are_no_names(tmp_path, names):
    base, _, _ = made(tmp_path, "GraniteMoe")
    configure(tmp_path / "lora", target_parameters=names)
    with pytest.raises(UserError, match="target_parameters is not a list of names"):
        open_weights(tmp_path / "lora", base)


def test_experts_that_are_saved_whole(tmp_path):
    """modules_to_save: each matrix of the stack has its change."""
    base, adapter, _ = made(tmp_path, "GptOss", target_parameters=None, modules_to_save=["experts"])
    name = "model.layers.0.mlp.experts.gate_up_proj"
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    key = f"base_model.model.{name}"
    weights[key] = weights[key] + torch.randn(weights[key].shape, dtype=torch.float64)
    save_file(weights, file)
    adapter = open_weights(tmp_path / "lora", base)
    for index in range(4):
        found = adapter.sliced(name, index).factors(name, torch.float64).dense()
        assert torch.allclose(found, weights[key][index] - base[name][index])


def test_adapters_of_modules_only_are_merged_into_an_adapter(tmp_path):
    made(tmp_path, "GraniteMoe")
    with pytest.raises(
        UserError, match=r"form=lora takes adapters of modules.*give base=PATH, and leave form=lora out"
    ):
        factors.Adapter.open(tmp_path / "lora" / "adapter_model.safetensors")
