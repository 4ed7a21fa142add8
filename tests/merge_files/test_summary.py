"""What a finished merge says: norms against a float64 computation, and warnings."""

import re

import pytest
import torch
from adapters import plain_adapter
from models import zoo
from safetensors.torch import save_file

from tsv_exp import merge
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of

WORDS = ["base=base.safetensors", "models=[a.safetensors, b.safetensors]", "out=out"]


def write(tmp_path, monkeypatch, change):
    """base, a and b, where `change` gives the task vectors of a and b of every parameter."""
    monkeypatch.chdir(tmp_path)
    base, finetuned = zoo(2)
    for name, (first, second) in zip("ab", [list(finetuned.values())] * 2, strict=True):
        model = {}
        for key, weight in base.items():
            deltas = first[key] - weight, second[key] - weight
            model[key] = weight if key == "position_ids" else weight + change(*deltas)["ab".index(name)]
        save_file(model, f"{name}.safetensors")
        finetuned[name] = model
    save_file(base, "base.safetensors")
    return base, {name: finetuned[name] for name in "ab"}


@pytest.mark.parametrize("method", ["tsv_m", "ties", "weight_average"])
def test_the_table_has_the_norms_of_the_task_vectors_and_of_the_merge(tmp_path, monkeypatch, capsys, method):
    base, models = write(tmp_path, monkeypatch, lambda a, b: (a, b))
    run(options_of([*WORDS, f"method={method}", "alpha=0.5"]))
    said = capsys.readouterr().err
    names = [name for name, weight in base.items() if weight.is_floating_point()]

    def norm(tau):
        return float(sum(tau[name].square().sum() for name in names) ** 0.5)

    merged = norm(merge(base, models, method).vector())
    for name, model in models.items():
        own = norm({key: model[key] - base[key] for key in names})
        assert re.search(rf"^{name} +{own:.4g} +{0.5 * merged / own:.3f}$", said, re.M), said
    assert re.search(rf"^merge, α · merge +{merged:.4g} +{0.5 * merged:.4g}$", said, re.M)
    assert "warning" not in said


def test_a_merge_that_ended_before_its_measures_were_stored(tmp_path, monkeypatch, capsys):
    write(tmp_path, monkeypatch, lambda a, b: (a, b))
    run(options_of(WORDS))
    said = capsys.readouterr().err
    (record,) = tmp_path.glob("out/.tsv-merge/*.layers.json")
    record.unlink()
    run(options_of(WORDS))
    assert capsys.readouterr().err == said


def test_the_data_free_alpha_is_said_to_be_too_large_for_adapters_only(tmp_path, monkeypatch, capsys):
    write(tmp_path, monkeypatch, lambda a, b: (a, b))
    run(options_of(WORDS))
    assert re.search(r"^data-free α: about [\d.]+, from 4 of 5 matrices$", capsys.readouterr().err, re.M)
    for name in ("c", "d"):
        plain_adapter(tmp_path / name, "square")
    run(options_of(["models=[c, d]", "form=lora", "out=lora"]))
    said = capsys.readouterr().err
    assert "data-free α: about 1.00, from 1 of 1 matrix; for adapters it is too large" in said  # one merge: M = Δ


def test_many_equal_models_are_one_line(tmp_path, monkeypatch, capsys):
    write(tmp_path, monkeypatch, lambda a, b: (a, b))
    names = dict.fromkeys(("c", "d", "e", "f"), "a.safetensors") | {"g": "b.safetensors", "h": "base.safetensors"}
    run(options_of(["base=base.safetensors", f"models={names}".replace("'", ""), "out=out"]))
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == [
        "warning: model 'h' is equal to the base",
        "warning: models 'c', 'd', 'e', ... (4) are equal to each other",
    ]


def test_layers_are_counted(tmp_path, monkeypatch, capsys):
    write(tmp_path, monkeypatch, lambda a, b: (a, b))
    run(options_of(WORDS))
    said = capsys.readouterr().err
    assert "4 matrices merged by tsv_m, α = 1" in said  # tall, wide, square, thin
    assert "4 other layers merged by weight_average, α = 1" in said  # text_projection, conv, norm, scale
    assert "2 tensors copied from the base" in said  # frozen and position_ids


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_layers_with_fewer_rows_than_tasks_are_copied(tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (6, 5), "types.weight": (1, 5), "norm.weight": (5,)}
    for name in ("base", "a", "b"):
        save_file({key: torch.randn(shape, generator=g) for key, shape in shapes.items()}, f"{name}.safetensors")
    run(options_of([*WORDS, f"method={method}"]))
    said = capsys.readouterr().err
    assert f"1 matrix merged by {method}, α = 1" in said
    assert "1 tensor copied from the base" in said


def test_stacks_and_what_an_adapter_leaves_out_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (6, 5), "mlp.experts.down_proj": (3, 4, 5), "norm.weight": (5,)}
    for name in ("base", "a", "b"):
        save_file({key: torch.randn(shape, generator=g) for key, shape in shapes.items()}, f"{name}.safetensors")
    run(options_of(WORDS))
    assert "1 stack of matrices merged by tsv_m, α = 1" in capsys.readouterr().err
    run(options_of([*WORDS, "out=lora", "form=lora", "rank=2"]))
    line = "2 tensors not in the adapter, also where models change them: mlp.experts.down_proj, norm.weight"
    assert line in (said := capsys.readouterr().err).splitlines()
    assert "copied from the base" not in said


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda a, b: (0 * a, 0 * b), "all models are equal to the base; so the merged model is the base"),
        (lambda a, b: (a, 0 * b), "model 'b' is equal to the base"),
        (lambda a, b: (a, a), "models 'a' and 'b' are equal to each other"),
        (lambda a, b: (a, -a), "the merged task vector nearly cancels"),
    ],
)
@pytest.mark.parametrize("method", ["weight_average", "task_arithmetic"])
def test_what_looks_wrong_is_a_warning(tmp_path, monkeypatch, capsys, method, change, warning):
    write(tmp_path, monkeypatch, change)
    run(options_of([*WORDS, f"method={method}"]))
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert f"warning: {warning}" in said


@pytest.mark.parametrize(
    ("weights", "warning"),
    [
        ("{a: 0}", "the weight of model 'a' is 0"),
        ("{a: 0, b: 0}", "the weight of model 'a' is 0; the weight of model 'b' is 0; so the merged model is the base"),
    ],
)
def test_a_weight_of_zero_is_not_called_a_model_equal_to_the_base(tmp_path, monkeypatch, capsys, weights, warning):
    write(tmp_path, monkeypatch, lambda a, b: (a, b))
    run(options_of([*WORDS, "method=task_arithmetic", f"weights={weights}"]))
    said = capsys.readouterr().err
    assert f"warning: {warning}" in said
    assert "equal to the base" not in said


def test_names_with_brackets_are_shown_and_single_things_are_singular(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (("base", 0.0), ("a", 1.0)):
        save_file({"q.weight": torch.full((4, 3), value), "frozen": torch.zeros(3)}, f"{name}.safetensors")
    run(options_of(["base=base.safetensors", "models={'[x]': a.safetensors}", "out=out"]))
    said = capsys.readouterr().err
    assert re.search(r"^\[x\] +3\.464 +1\.000$", said, re.M), said
    for line in ("1 matrix merged by tsv_m, α = 1", "1 tensor copied from the base", "out: 0.0 MB in 1 file"):
        assert line in said.splitlines()


def test_adapters_that_are_equal_are_seen_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    factors = {
        "base_model.model.q.lora_A.weight": torch.randn(2, 8, generator=g),
        "base_model.model.q.lora_B.weight": torch.randn(6, 2, generator=g),
    }
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    run(options_of(["models=[a, b]", "out=out", "form=lora", "method=task_arithmetic", "alpha=1"]))
    assert "warning: models 'a' and 'b' are equal to each other" in capsys.readouterr().err
