"""What real checkpoints look like, merged from files to a file: the same as in memory, or one line."""

import re
import sys

import pytest
import torch
from models import same, zoo
from safetensors.torch import save_file

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.commands.merge import main
from tsv_exp.config import Engine
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

EXPERTS = "layers.0.experts.down_proj"


@pytest.fixture
def words(tmp_path):
    """Saves models; returns the words that name them."""

    def saved(base, finetuned, save=save_file, suffix="safetensors"):
        save(base, tmp_path / f"base.{suffix}")
        for task, model in finetuned.items():
            save(model, tmp_path / f"{task}.{suffix}")
        models = ",".join(str(tmp_path / f"{task}.{suffix}") for task in finetuned)
        return [f"base={tmp_path / f'base.{suffix}'}", f"models=[{models}]", f"out={tmp_path / 'out'}"]

    return saved


def test_wrappers_heads_and_tied_weights(tmp_path, words, monkeypatch, capsys):
    base, finetuned = zoo(2, torch.float32)
    for model in (base, *finetuned.values()):
        model["head.weight"] = model["tall.weight"].clone()
    expected = apply(base, merge(base, finetuned), 0.5)
    changed = {
        "task0": {"epoch": 3, "model": {f"module.{name}": weight for name, weight in finetuned["task0"].items()}},
        "task1": {name: weight for name, weight in finetuned["task1"].items() if name != "head.weight"},
    }
    monkeypatch.setattr(sys, "argv", ["tsv-merge", *words(base, changed, torch.save, "ckpt"), "alpha=0.5"])
    main()
    same(tmp_path / "out", expected)
    told = capsys.readouterr().err
    assert re.search(
        r"model 'task0': \d+ tensors with another name, such as 'module.tall.weight' for 'tall.weight'", told
    )
    assert "model 'task1': 1 tensor with another name, such as 'tall.weight' for 'head.weight'" in told


def test_keep_and_ignore(tmp_path, words):
    base, finetuned = zoo(2, torch.float32)
    finetuned["task1"] |= {"norm.bias": torch.ones(3), "score.weight": torch.ones(2, 2)}
    given = words(base, finetuned)
    with pytest.raises(UserError, match=r"task1.safetensors\) has a tensor 'score.weight'.*ignore"):
        run(parse(given))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"ignore='other\*' matches none of the models' tensors"):
        run(parse([*given, "ignore='other*'"]))
    run(parse([*given, "ignore='score*'", "keep=['norm.*']", "shard_mb=0.002"]))
    same(tmp_path / "out", apply(base, merge(base, finetuned, engine=Engine(keep=["norm.*"], ignore=["score*"]))))


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c", "tall_mask", "iso_c"])
def test_stacks_of_experts(tmp_path, words, method):
    base, finetuned = zoo(2, torch.float32)
    g = torch.Generator().manual_seed(2)
    for model in (base, *finetuned.values()):
        model[EXPERTS] = torch.randn(3, 12, 10, generator=g)
    merged = merge(base, finetuned, method)
    run(parse([*words(base, finetuned), f"method={method}"]))
    if not merged.per_task:
        return same(tmp_path / "out", apply(base, merged))
    stored = load_merged(tmp_path / "out")
    torch.testing.assert_close(apply(base, stored, 1.0, "task1"), apply(base, merged, 1.0, "task1"))
    assert stored.stored_bytes_without_base == merged.stored_bytes_without_base
    return None


def test_infinite_entries_and_negative_variances(tmp_path, words, monkeypatch, capsys):
    base, finetuned = zoo(2, torch.float32)
    for model, variance in ((base, 1.0), *((model, 0.1) for model in finetuned.values())):
        model["mask"] = torch.full((5, 5), -torch.inf).triu(1)
        model["bn.running_var"] = torch.tensor([variance, 2.0])
    given = [*words(base, finetuned), "method=weight_average", "alpha=2"]
    monkeypatch.setattr(sys, "argv", ["tsv-merge", *given])
    main()
    expected = apply(base, merge(base, finetuned, "weight_average"), 2.0)
    same(tmp_path / "out", expected)
    assert expected["bn.running_var"].tolist() == [1.0, 2.0]
    assert re.search(r"1 running variances would be below 0", capsys.readouterr().err)


def test_layers_that_keep_nothing_are_named(tmp_path, words, monkeypatch, capsys):
    base, finetuned = zoo(4, torch.float32)
    monkeypatch.setattr(sys, "argv", ["tsv-merge", *words(base, finetuned)])
    main()
    assert capsys.readouterr().err.count("1 layer with fewer rows or columns than the 4 tasks") == 1


def test_dtypes_of_safetensors(tmp_path, words):
    base, finetuned = zoo(2, torch.float32)
    for model in (base, *finetuned.values()):
        model |= {"count": torch.tensor([1, 2]).to(torch.uint16), "angle": torch.ones(2, dtype=torch.complex64)}
        model["tall.weight"] = (model["tall.weight"] / 10).to(torch.float8_e4m3fn)
    given = words(base, finetuned)
    with pytest.raises(UserError, match=r"'angle' of the base .* is complex"):
        run(parse(given))
    run(parse([*given, "keep=angle"]))
    expected = apply(base, merge(base, finetuned, engine=Engine(keep=["angle"])))
    found = read(tmp_path / "out")
    assert all(torch.equal(found[name].to(torch.complex128), expected[name].to(torch.complex128)) for name in expected)
    assert found["tall.weight"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("alpha", ["1e40", "-1e40"])
def test_alpha_that_float32_does_not_hold(words, alpha):
    with pytest.raises(UserError, match="alpha="):
        run(parse([*words(*zoo(1, torch.float32)), f"alpha={alpha}"]))


def test_a_part_of_a_model_is_told_so(tmp_path, words):
    given = words(*zoo(1, torch.float32))
    part = tmp_path / "model-00002-of-00003.safetensors"
    save_file({"norm.bias": torch.ones(3)}, part)
    with pytest.raises(UserError, match=f"{part} holds a part of a model; give its folder"):
        run(parse([given[0], f"models=[{part}]", *given[2:]]))


def test_the_remedy_for_a_name_with_brackets_works(tmp_path, words):
    base, finetuned = zoo(2, torch.float32)
    base["q[0].weight"] = torch.ones(3, 4)
    given = words(base, finetuned)
    with pytest.raises(UserError, match="lacks the tensor") as error:
        run(parse(given))
    remedy = re.search(r'"(keep=[^"]*)"', str(error.value))
    run(parse([*given, remedy[1]]))
    assert torch.equal(read(tmp_path / "out")["q[0].weight"], base["q[0].weight"])


def test_a_damaged_configuration_is_found_before_the_merge(tmp_path):
    (tmp_path / "base").mkdir()
    base, finetuned = zoo(1, torch.float32)
    save_file(base, tmp_path / "base" / "model.safetensors")
    save_file(finetuned["task0"], tmp_path / "a.safetensors")
    (tmp_path / "base" / "config.json").write_text("{bad")
    with pytest.raises(UserError, match=r"config.json: .*; correct it, or leave dtype"):
        run(
            parse(
                [
                    f"base={tmp_path / 'base'}",
                    f"models={tmp_path / 'a.safetensors'}",
                    f"out={tmp_path / 'out'}",
                    "dtype=bfloat16",
                ]
            )
        )
    assert not (tmp_path / "out").exists()
