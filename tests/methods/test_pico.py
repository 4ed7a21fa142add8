"""Pico of adapters that PEFT wrote, against the explicit S = V diag(α) Vᵀ of float64 eigenvectors."""

import pytest
import torch
from adapters import adapter, agree, llama
from experts import KINDS, adapt, mixture
from models import zoo
from safetensors.torch import load_file, save_file

from tsv_exp import LowRank, UserError, merge
from tsv_exp.checkpoints.adapters import lora_config
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse
from tsv_exp.methods.steps.after import mean_norm
from tsv_exp.methods.steps.before import pico

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(fan_in_fan_out|tie|config file):UserWarning"),
    pytest.mark.filterwarnings("ignore:.*_pattern keys did not match:RuntimeWarning"),
]
STEPS = ["before=[pico]", "after=[mean_norm]", "svd=exact"]


def operator(sides):
    """S (m, m) of B_i (m, r_i) with their scales."""
    values, vectors = torch.linalg.eigh(sum(b @ b.mT for b in sides))
    tasks, values = sum(bool(b.any()) for b in sides), values.clamp(min=0)
    return vectors @ (1 / (1 + (tasks - 1) * values / values.sum())).diag() @ vectors.mT


def random(m, n, ranks, seed=0):
    g = torch.Generator().manual_seed(seed)

    def one(rank, size):
        b, a = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((m, rank), (rank, n)))
        return LowRank(b, torch.full((rank,), size, dtype=torch.float64), a)

    return [one(rank, 0.5 + i) for i, rank in enumerate(ranks)]


def zero(product):
    return product._replace(u=torch.zeros_like(product.u))


SAME, OTHER = random(9, 7, [3, 2], 1)
INPUTS = {
    "one adapter": [SAME],
    "two": random(12, 8, [3, 3]),
    "unequal ranks": random(12, 8, [1, 4, 2]),
    "more columns than rows": random(6, 9, [4, 3, 5]),
    "an adapter without factors": random(12, 8, [3, 0, 2]),
    "an adapter of zeros": [SAME, zero(OTHER), OTHER],
    "only one changes the layer": [zero(SAME), OTHER, zero(OTHER)],
    "identical adapters": [SAME, SAME, SAME],
    "opposed adapters": [SAME, SAME._replace(s=-SAME.s)],
    "very unequal sizes": [SAME._replace(s=SAME.s * 1e-9), OTHER],
    "tiny": [SAME._replace(s=SAME.s * 1e-25), OTHER._replace(s=OTHER.s * 1e-25)],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", INPUTS)
def test_the_outputs_are_calibrated(name, dtype):
    given = [LowRank(*(part.to(dtype) for part in product)) for product in INPUTS[name]]
    exact = [LowRank(*(part.double() for part in product)) for product in given]
    s = operator([u * scale for u, scale, _ in exact])
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for found, before, start in zip(pico(given), exact, given, strict=True):
        assert found.u.dtype == dtype
        assert (found.dense().double() - s @ before.dense()).norm() <= tolerance * before.dense().norm()
        assert torch.equal(found.vh, start.vh)


def test_one_adapter_stays_as_it_is_and_equal_ones_lose_what_they_add():
    for given in ([SAME], [zero(SAME), SAME], [zero(SAME)] * 2, random(5, 4, [0, 0])):
        assert all(torch.equal(new.u, old.u) for new, old in zip(pico(given), given, strict=True))
    line = random(9, 7, [1])[0]
    for new in pico([line] * 4):
        torch.testing.assert_close(new.dense(), line.dense() / 4, rtol=1e-12, atol=1e-14)


def test_the_merge_has_the_mean_norm_of_what_is_not_zero():
    deltas = torch.stack([product.dense() for product in (SAME, OTHER, zero(SAME))])
    found = mean_norm(deltas.sum(0), deltas)
    wanted = (SAME.dense().norm() + OTHER.dense().norm()) / 2
    torch.testing.assert_close(found, deltas.sum(0) * wanted / deltas.sum(0).norm(), rtol=1e-12, atol=1e-14)
    rounding = 1e-15 * SAME.dense()
    assert torch.equal(mean_norm(rounding, deltas[[0, 0]] * torch.tensor([1, -1]).view(2, 1, 1)), rounding)
    assert not mean_norm(torch.zeros(9, 7), torch.zeros(2, 9, 7)).any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama in float64, and adapters of unequal ranks, scales and modules."""
    place = tmp_path_factory.mktemp("pico")
    llama(place / "base")
    file = place / "base" / "model.safetensors"
    save_file({name: weight.double() for name, weight in load_file(file).items()}, file, {"format": "pt"})
    adapter(place / "base", place / "a", 1)
    adapter(place / "base", place / "b", 2, rank=2, use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 4})
    adapter(place / "base", place / "c", 3, alpha_pattern={"v_proj": 1}, target_modules=["q_proj", "v_proj", "up_proj"])
    return place


def sides(folder, module):
    """B, with its scale, and A of a module as PEFT stores them; none if the adapter lacks it."""
    tensors = load_file(folder / "adapter_model.safetensors")
    key = f"base_model.model.{module}.lora_"
    if f"{key}B.weight" not in tensors:
        return None
    b, a = (tensors[f"{key}{side}.weight"].double() for side in "BA")
    return lora_config.LoraConfig.load(folder).scale(module) * b, a


def calibrated(folder, names, transposed=False):
    """The explicit S ΔW_i and ΔW_i of each weight that some adapter changes, by adapter."""
    found, whole = {name: {} for name in names}, {name: {} for name in names}
    for weight, start in read(folder / "base").items():
        pairs = {name: sides(folder / name, weight.removesuffix(".weight")) for name in names}
        known = {name: pair for name, pair in pairs.items() if pair is not None}
        if not known:
            continue
        s = operator([b for b, _ in known.values()])
        for name in names:
            b, a = known.get(name) or torch.zeros(2, 1, 1, dtype=torch.float64)
            whole[name][weight] = ((b @ a).mT if transposed else b @ a).expand(start.shape)
            delta = whole[name][weight]
            found[name][weight] = delta @ s if transposed else s @ delta
    return found, whole


def expected(folder, names, method, transposed=False):
    """The merge of the explicit matrices by a method, scaled to the mean norm; the whole models take part in it."""
    found, whole = calibrated(folder, names, transposed)
    base = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in read(folder / "base").items()}
    merged = merge(base, {name: base | found[name] for name in names}, method).vector()
    for weight in found[names[0]]:
        norms = [norm for name in names if (norm := float(whole[name][weight].norm()))]
        merged[weight] *= sum(norms) / len(norms) / merged[weight].norm()
    return merged


def models(folder, names):
    return [f"base={folder / 'base'}", f"models=[{','.join(str(folder / name) for name in names)}]"]


def compare(folder, out, wanted, tolerance=1e-9):
    base, found, changed = read(folder / "base"), read(out), 0
    for name, delta in wanted.items():
        assert (found[name] - base[name] - delta).norm() <= tolerance * delta.norm() + 1e-12 * base[name].norm(), name
        changed += bool(delta.any())
    return changed


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic", "weight_average", "ties"])
def test_the_merge_is_that_of_the_explicit_matrices(folder, tmp_path, names, method):
    run(parse([*models(folder, names), f"out={tmp_path / 'out'}", f"method={method}", "alpha=1", *STEPS]))
    wanted = expected(folder, names, method)
    assert compare(folder, tmp_path / "out", wanted) == (8 if names == "abc" else 6)
    given = read(folder / "base"), {name: open_weights(folder / name, read(folder / "base")) for name in names}
    merged = merge(*given, method, before=["pico"], after=["mean_norm"]).vector()
    for name, delta in wanted.items():
        assert (merged[name] - delta).norm() <= 1e-6 * delta.norm(), name


@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic", "weight_average"])
def test_nothing_is_lost_in_an_adapter_of_the_sum_of_the_ranks(folder, tmp_path, method):
    words = [f"method={method}", "alpha=1", *STEPS]
    run(parse([*models(folder, "abc")[1:], f"out={tmp_path / 'lora'}", "form=lora", "rank=10", *words]))
    run(parse([*models(folder, "abc"), f"out={tmp_path / 'dense'}", *words]))
    agree(tmp_path / "lora", tmp_path / "dense", folder / "base", 8)
    with pytest.raises(UserError, match="give rank=R"):
        run(parse([*models(folder, "abc")[1:], f"out={tmp_path / 'other'}", "form=lora", *words]))


@pytest.mark.parametrize("method", ["tsv_m", "ties"])
def test_layers_that_are_stored_transposed(tmp_path, method):
    """GPT-2's Conv1D, also square ones, and an embedding that is taken for a matrix."""
    import peft
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12)
    torch.manual_seed(0)
    transformers.GPT2Model(config).double().save_pretrained(tmp_path / "base")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = transformers.GPT2Model.from_pretrained(tmp_path / "base")
        options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "init_lora_weights": False}
        peft.get_peft_model(model, peft.LoraConfig(r=2 + seed, **options)).save_pretrained(tmp_path / name)
    run(parse([*models(tmp_path, "ab"), f"out={tmp_path / 'out'}", f"method={method}", "alpha=1", *STEPS]))
    assert compare(tmp_path, tmp_path / "out", expected(tmp_path, "ab", method, transposed=True)) == 6


def test_an_embedding_that_is_taken_for_a_matrix(tmp_path):
    import peft
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40, n_positions=12)
    torch.manual_seed(0)
    transformers.GPT2Model(config).double().save_pretrained(tmp_path / "base")
    pairs = []
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = transformers.GPT2Model.from_pretrained(tmp_path / "base")
        peft.get_peft_model(
            model, peft.LoraConfig(r=2, lora_alpha=2, target_modules=["wpe"], init_lora_weights=False)
        ).save_pretrained(tmp_path / name)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        pairs.append([tensors[f"base_model.model.wpe.lora_embedding_{side}"].double() for side in "BA"])
    words = ["method=task_arithmetic", "alpha=1", "exclude=[wte.weight]", "before=[pico]"]
    run(parse([*models(tmp_path, "ab"), f"out={tmp_path / 'out'}", *words]))
    s = operator([b for b, _ in pairs])
    base, found = read(tmp_path / "base"), read(tmp_path / "out")
    wanted = sum(s @ b @ a for b, a in pairs).mT
    assert (found["wpe.weight"] - base["wpe.weight"] - wanted).norm() < 1e-9 * wanted.norm()


def refused(match, base, finetuned, method="tsv_m", **params):
    with pytest.raises(UserError, match=match) as caught:
        merge(base, finetuned, method, **{"before": ["pico"]} | params)
    assert "\n" not in str(caught.value)


def test_whole_weights_have_no_factors(folder):
    base, finetuned = zoo(2)
    refused(r"method tsv_m, step pico, layer 'tall.weight': .* give LoRA adapters as models", base, finetuned)
    base = read(folder / "base")
    models = {"a": open_weights(folder / "a", base), "b": open_weights(folder / "b", base)}
    refused("step pico, layer .* give LoRA adapters as models", base, {"a": models["a"], "b": dict(models["b"])})
    refused("this step before others", base, models, before=["truncate", "pico"])
    refused("this step before others", base, models, "ties", before=["drop", "pico"])
    assert merge(base, models, "tsv_m", before=["pico", "truncate"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"init_lora_weights": "pissa"}, "'.*_proj.weight' is known .*initialization changed the base"),
        ({"modules_to_save": ["v_proj"], "target_modules": ["q_proj"]}, "'.*v_proj.weight' is known .*saved whole"),
    ],
)
def test_changes_that_are_not_only_factors(folder, tmp_path, options, reason):
    adapter(folder / "base", tmp_path / "own", 4, **options)
    if "modules_to_save" in options:
        file = tmp_path / "own" / "adapter_model.safetensors"
        save_file({key: tensor + 0.1 for key, tensor in load_file(file).items()}, file)
    base = read(folder / "base")
    finetuned = {"own": open_weights(tmp_path / "own", base), "a": open_weights(folder / "a", base)}
    refused(f"method tsv_m, step pico: .*own: no B of {reason}", base, finetuned)
    if "modules_to_save" not in options:
        words = [f"models=[{tmp_path / 'own'},{folder / 'a'}]", f"base={folder / 'base'}", "form=lora", "rank=9"]
        with pytest.raises(UserError, match=f"no B of {reason}"):
            run(parse([*words, f"out={tmp_path / 'out'}", *STEPS]))


@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic"])
def test_experts_have_no_known_outputs_and_those_without_a_change_stay(tmp_path, method):
    mixture("GptOss", tmp_path / "base", dtype=torch.float64)
    base = read(tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "all", tmp_path / "merged", **KINDS["GptOss"][1])
    refused("has target_parameters", base, {"all": open_weights(tmp_path / "all", base)}, method)
    for seed, name in enumerate("ab"):
        adapt(tmp_path / "base", tmp_path / name, tmp_path / "merged", seed, target_modules=["q_proj"])
    finetuned = {name: open_weights(tmp_path / name, base) for name in "ab"}
    found = merge(base, finetuned, method, before=["pico"], after=["mean_norm"]).vector()
    assert {name for name, delta in found.items() if delta.any()} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)
    }


def test_weights_of_models_belong_to_the_factors(folder, tmp_path):
    """As a larger lora_alpha."""
    words = ["method=weight_average", "alpha=1", *STEPS]
    run(parse([*models(folder, "ab"), f"out={tmp_path / 'weighted'}", *words, "weights={a: 3}"]))
    adapter(folder / "base", tmp_path / "a", 1, lora_alpha=18)
    run(parse([*models(folder, [tmp_path / "a", folder / "b"]), f"out={tmp_path / 'scaled'}", *words]))
    found, wanted = read(tmp_path / "weighted"), read(tmp_path / "scaled")
    for name in found:
        assert (found[name] - wanted[name]).norm() <= 1e-12 * wanted[name].norm(), name


def test_equal_weights_of_other_factors_have_another_digest(folder, tmp_path):
    """Since their merge is another one."""
    base = read(folder / "base")
    for name, size in (("same", 1), ("other", 2)):
        adapter(folder / "base", tmp_path / name, 1)
        file = tmp_path / name / "adapter_model.safetensors"
        tensors = load_file(file)
        save_file({key: size * t if "lora_A" in key else t / size for key, t in tensors.items()}, file)
    first, same, other = (open_weights(place, base) for place in (folder / "a", tmp_path / "same", tmp_path / "other"))
    assert all(torch.equal(first[name], other[name]) for name in base)
    assert first.digest == same.digest != other.digest


def narrower(factors):
    return [LowRank(u[1:], s, vh) for u, s, vh in factors]


def torn(factors):
    return [LowRank(u, s[1:], vh) for u, s, vh in factors]


def infinite(factors):
    return [product._replace(s=product.s * float("inf")) for product in factors]


def nothing(factors):
    return None


def halved(factors, share=0.5):
    return [product._replace(s=product.s * share) for product in factors]


def test_a_step_of_ones_own_on_factors(folder, monkeypatch):
    import sys

    module = type(sys)("own_factors")
    module.halved = halved
    monkeypatch.setitem(sys.modules, "own_factors", module)
    base = read(folder / "base")
    models = {name: open_weights(folder / name, base) for name in "ab"}
    plain = merge(base, models, "tsv_m").vector()
    found = merge(base, models, "tsv_m", before=["pico", {"own_factors.halved": {"share": 0.25}}]).vector()
    whole = merge(base, models, "tsv_m", before=["pico"]).vector()
    for name in plain:
        torch.testing.assert_close(found[name], whole[name] / 4, rtol=1e-9, atol=1e-12)
    for name in ("narrower", "torn", "infinite", "nothing"):
        module.__dict__[name] = globals()[name]
        said = f"step own_factors.{name}, layer .* returned no finite LowRank"
        refused(said, base, models, before=[f"own_factors.{name}"])
    with pytest.raises(UserError, match="a step of after takes"):
        merge(base, models, "tsv_m", after=["own_factors.halved"])
