"""form=lora, with adapters and models that PEFT and transformers write and read."""

import json
import shutil

import pytest
import torch
from adapters import adapter, agree, llama, logits, plain_adapter
from models import close
from safetensors.torch import load_file, save_file

import tsv_exp
from tsv_exp import UserError
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:peft", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model and three adapters: unequal ranks, scales by pattern, rank-stabilized, other modules."""
    place = tmp_path_factory.mktemp("adapters")
    llama(place / "base")
    adapter(place / "base", place / "a", 1)
    adapter(place / "base", place / "b", 2, rank=2, use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 4})
    adapter(place / "base", place / "c", 3, alpha_pattern={"v_proj": 1}, target_modules=["q_proj", "v_proj", "up_proj"])
    return place


def models(folder):
    return f"models=[{','.join(str(folder / name) for name in 'abc')}]"


def opened(folder, out):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), out)


@pytest.mark.parametrize("words", [["method=tsv_m"], ["method=iso_c", "alpha=0.5"], ["method=task_arithmetic"]])
def test_the_adapter_answers_as_the_dense_merge(folder, tmp_path, words):
    from transformers import AutoModelForCausalLM

    run(parse([models(folder), f"out={tmp_path / 'lora'}", "form=lora", *words]))
    run(parse([f"base={folder / 'base'}", models(folder), f"out={tmp_path / 'dense'}", *words]))
    dense = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"))
    base = logits(AutoModelForCausalLM.from_pretrained(folder / "base"))
    error = (logits(opened(folder, tmp_path / "lora")) - dense).norm() / (dense - base).norm()
    assert error < 1e-4
    assert (dense - base).norm() > 1e-2 * base.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["lora", "dense"])
def test_the_same_adapter_on_a_gpu(folder, tmp_path, form):
    words = [models(folder), "form=lora"] if form == "lora" else [f"base={folder / 'base'}", models(folder)]
    name = "adapter_model.safetensors" if form == "lora" else "model.safetensors"
    made = {}
    for device in ("cpu", "cuda"):
        run(parse([*words, f"out={tmp_path / device}", f"device={device}"]))
        made[device] = load_file(tmp_path / device / name)
    assert made["cuda"].keys() == made["cpu"].keys()
    if form == "dense":
        close(made["cuda"], made["cpu"], 1e-4)
        return
    products = [
        {key: tensors[key.replace("lora_A", "lora_B")] @ tensor for key, tensor in tensors.items() if "lora_A" in key}
        for tensors in made.values()
    ]
    close(products[1], products[0], 1e-4)


def test_ranks_add_up_and_the_base_is_that_of_the_adapters(folder, tmp_path):
    run(parse([models(folder), f"out={tmp_path / 'out'}", "form=lora"]))
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ranks = {name: len(tensor) for name, tensor in tensors.items() if "lora_A" in name}
    prefix = "base_model.model.model.layers"
    assert ranks[f"{prefix}.0.self_attn.q_proj.lora_A.weight"] == 3 + 2 + 3
    assert ranks[f"{prefix}.1.self_attn.q_proj.lora_A.weight"] == 3 + 4 + 3
    assert ranks[f"{prefix}.0.mlp.up_proj.lora_A.weight"] == 3
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "base")


def test_the_energy_that_a_smaller_rank_loses_is_printed(folder, tmp_path, capsys):
    run(parse([models(folder), f"out={tmp_path / 'whole'}", "form=lora"]))
    run(parse([models(folder), f"out={tmp_path / 'cut'}", "form=lora", "rank=4"]))
    said = capsys.readouterr().err
    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    total = lost = 0.0
    for name in whole:
        if "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            product = whole[other].double() @ whole[name].double()
            u, s, vh = torch.linalg.svd(product)
            best = (u[:, :4] * s[:4]) @ vh[:4]
            assert (cut[other].double() @ cut[name].double() - best).norm() < 1e-5 * best.norm()
            total, lost = total + float(s.square().sum()), lost + float(s[4:].square().sum())
    assert lost > 0
    assert f"adapter of rank 4: {100 * lost / total:.2g} % of the merge's energy is lost" in said


def test_extraction_from_full_checkpoints(folder, tmp_path):
    """Of one fine-tuned model whose change has rank 5, an adapter of rank 5 is that model again."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight += 0.1 * torch.randn(weight.shape[0], 5) @ torch.randn(5, weight.shape[1])
    model.save_pretrained(tmp_path / "tuned")
    words = [f"base={folder / 'base'}", f"models={tmp_path / 'tuned'}", "method=weight_average", "form=lora"]
    run(parse([*words, f"out={tmp_path / 'lora'}", "rank=5"]))
    expected = logits(model)
    assert (logits(opened(folder, tmp_path / "lora")) - expected).norm() < 1e-4 * expected.norm()
    with pytest.raises(UserError, match="give rank=R"):
        run(parse([*words, f"out={tmp_path / 'none'}"]))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=ties"], "ties is not of low rank; give rank=R"),
        (["rank=0"], "rank=0"),
        (["rank=1.5"], "rank=1.5"),
        (["method=tsv_c"], "one model for all tasks"),
        (["ignore=['*']"], "nothing that it changes is left"),
    ],
)
def test_what_cannot_be_an_adapter_is_one_line(folder, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        run(parse([models(folder), f"out={tmp_path / 'out'}", "form=lora", *words]))
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_another_rank(folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(UserError, match="have rank 3 and 3, its configuration says 4"):
        run(parse([f"models={tmp_path / 'a'}", f"out={tmp_path / 'out'}", "form=lora"]))


def test_wrappers_are_not_in_the_names_of_the_adapter(folder, tmp_path):
    tensors = load_file(folder / "a" / "adapter_model.safetensors")
    (tmp_path / "a").mkdir()
    shutil.copy(folder / "a" / "adapter_config.json", tmp_path / "a")
    compiled = {
        key.replace("base_model.model.", "base_model.model._orig_mod."): tensor for key, tensor in tensors.items()
    }
    save_file(compiled, tmp_path / "a" / "adapter_model.safetensors")
    for name, place in (("plain", folder), ("compiled", tmp_path)):
        run(parse([f"models=[{place / 'a'},{folder / 'b'}]", f"out={tmp_path / name}", "form=lora"]))
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("compiled", "plain"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_folder_of_adapters_is_told_which_ones(folder, tmp_path):
    with pytest.raises(UserError, match=r"its subfolder a \(of 4\) holds one; give .*/a"):
        run(parse([f"models=[{folder}]", f"out={tmp_path / 'out'}", "form=lora"]))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_adapters_that_change_the_base_need_it(folder, tmp_path, kind):
    adapter(folder / "base", tmp_path / kind, 4, init_lora_weights=kind)
    two = f"models=[{tmp_path / kind},{folder / 'b'}]"
    with pytest.raises(UserError, match=rf"initialization \({kind}\) was taken from the base; give base=PATH"):
        run(parse([two, f"out={tmp_path / 'lora'}", "form=lora"]))
    run(parse([f"base={folder / 'base'}", two, f"out={tmp_path / 'lora'}", "form=lora"]))
    run(parse([f"base={folder / 'base'}", two, f"out={tmp_path / 'dense'}"]))
    agree(tmp_path / "lora", tmp_path / "dense", folder / "base", 6)
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["r"] == 2 * 3 + 4


def test_modules_that_no_two_adapters_share(folder, tmp_path, caplog):
    adapter(folder / "base", tmp_path / "mlp", 5, target_modules=["up_proj"], layers_to_transform=[1])
    run(parse([f"models=[{folder / 'b'},{tmp_path / 'mlp'}]", f"out={tmp_path / 'out'}", "form=lora"]))
    assert not caplog.text
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 7  # by full name: up_proj of one layer
    assert "model.layers.1.mlp.up_proj" in targets
    config = json.loads((tmp_path / "mlp" / "adapter_config.json").read_text())
    (tmp_path / "mlp" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "other"}))
    with pytest.raises(UserError, match="different models"):
        run(parse([f"models=[{folder / 'b'},{tmp_path / 'mlp'}]", f"out={tmp_path / 'no'}", "form=lora"]))


def test_adapters_whose_names_differ_by_a_prefix(tmp_path):
    """PEFT on GPT-2 with its head (transformer.h.0) and without (h.0), where one changes more modules."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=8)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    for kind, name, targets in ((GPT2LMHeadModel, "a", ["c_attn"]), (GPT2Model, "b", ["c_attn", "c_fc"])):
        model = get_peft_model(kind(config), LoraConfig(r=3, target_modules=targets, init_lora_weights=False))
        model.save_pretrained(tmp_path / name)
    two = f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]"
    run(parse([two, f"out={tmp_path / 'lora'}", "form=lora"]))
    run(parse([f"base={tmp_path / 'base'}", two, f"out={tmp_path / 'dense'}"]))
    agree(tmp_path / "lora", tmp_path / "dense", tmp_path / "base", 4, transposed=True)


def test_ignored_modules_are_not_in_the_adapter(folder, tmp_path):
    run(parse([models(folder), f"out={tmp_path / 'out'}", "form=lora", "ignore=['*q_proj*', '*up_proj*']"]))
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"v_proj", "down_proj"}


def test_weights_multiply_adapters(folder, tmp_path):
    two = f"models={{a: {folder / 'a'}, b: {folder / 'b'}}}"
    run(parse([two, f"out={tmp_path / 'out'}", "form=lora", "method=task_arithmetic", "alpha=1", "weights={b: -0.5}"]))
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "BA"]

    def product(place):
        b, a = (load_file(place / "adapter_model.safetensors")[name].double() for name in names)
        return b @ a

    expected = 2 * product(folder / "a") - 0.5 * 4 / 2**0.5 * product(folder / "b")  # α / r, and α / √r
    assert (product(tmp_path / "out") - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float8_e4m3fn, torch.float32), torch.float32),
        ((torch.float8_e4m3fn, torch.float8_e5m2), torch.bfloat16),
        ((torch.float8_e5m2, torch.float8_e5m2), torch.float8_e5m2),
        ((torch.bfloat16, torch.float16), torch.float32),
    ],
)
def test_adapters_of_different_dtypes(tmp_path, dtypes, expected):
    module = "base_model.model.layers.0.q_proj"
    for name, dtype in zip("ab", dtypes, strict=True):
        (tmp_path / name).mkdir()
        factors = {
            f"{module}.lora_A.weight": torch.eye(2, 6).to(dtype),
            f"{module}.lora_B.weight": torch.eye(4, 2).to(dtype),
        }
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    words = [
        f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]",
        f"out={tmp_path / 'out'}",
        "form=lora",
        "method=task_arithmetic",
    ]
    run(parse([*words, "alpha=1"]))
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {expected}
    b, a = (found[f"{module}.lora_{side}.weight"].double() for side in "BA")
    torch.testing.assert_close(b @ a, 2 * torch.eye(4, 6).double() * (torch.arange(6) < 2), rtol=0.13, atol=0)


def test_a_base_that_is_not_that_of_the_adapters(folder, tmp_path):
    words = [f"out={tmp_path / 'out'}", "form=lora", "method=task_arithmetic"]
    plain_adapter(tmp_path / "lora", "model.layers.0.self_attn.q_proj", size=7)  # a name of the base, in another shape
    plain_adapter(tmp_path / "other", "h.0.attn")
    for name in ("lora", "other"):
        with pytest.raises(UserError, match=rf"model '{name}' .* changes no weight of base=.*base.*; give the base"):
            run(parse([f"base={folder / 'base'}", f"models=[{tmp_path / name}]", *words]))
    with pytest.raises(UserError, match="is an adapter, not a model"):
        run(parse([f"base={folder / 'a'}", models(folder), *words]))
    with pytest.raises(UserError, match=r"no checkpoint in this folder; its subfolder .* holds one; give"):
        run(parse([f"base={folder}", models(folder), *words]))


def test_a_base_of_the_hub_is_named_and_not_downloaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tsv_exp.checkpoints.hub.downloads.model", lambda *_: pytest.fail("a download"))
    run(parse(["base=owner/name", models(folder), f"out={tmp_path / 'out'}", "form=lora"]))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"


def test_a_rank_above_the_sum_of_the_adapters(tmp_path):
    """TIES of factors of rank 1 has full rank, which no smaller adapter holds."""
    g, models = torch.Generator().manual_seed(0), {}
    for name in "ab":
        plain_adapter(tmp_path / name, "fc")
        b, a = torch.randn(8, 1, generator=g), torch.randn(1, 8, generator=g)
        factors = {"base_model.model.fc.lora_A.weight": a, "base_model.model.fc.lora_B.weight": b}
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        models[name] = {"fc.weight": b @ a}
    words = [f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"out={tmp_path / 'out'}", "form=lora"]
    run(parse([*words, "method=ties", "rank=8", "alpha=1"]))
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    wanted = tsv_exp.merge({"fc.weight": torch.zeros(8, 8)}, models, "ties").vector()["fc.weight"]
    b, a = (found[f"base_model.model.fc.lora_{side}.weight"] for side in "BA")
    torch.testing.assert_close(b @ a, wanted)
