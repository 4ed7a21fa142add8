import json
import logging
import re
import sys

import pytest
import torch
from models import close, same
from safetensors.torch import load_file, save_file

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.commands.merge import main
from tsv_exp.decompositions import fast
from tsv_exp.merge_files import one_model
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

PER_TASK = ["individual", "tsv_c", "tall_mask", "emr"]


@pytest.mark.parametrize("method", ["tsv_m", "ties", "consensus_ta"])
def test_the_same_as_in_memory(files, tmp_path, method):
    base, finetuned, words = files
    run(parse([*words, f"method={method}", "alpha=0.7"]))
    same(tmp_path / "out", apply(base, merge(base, finetuned, method), 0.7))
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["tsv_m", "tsv_c", "ties", "consensus_ta", "iso_reg"])
def test_the_same_on_a_gpu(files, tmp_path, method):
    given = ["task=task1"] if method in PER_TASK else []
    for device in ("cpu", "cuda"):
        out = [word.replace("/out", f"/{device}") for word in files[2]]
        run(parse([*out, f"method={method}", f"device={device}", *given]))
    close(load_file(tmp_path / "cuda/model.safetensors"), load_file(tmp_path / "cpu/model.safetensors"), 1e-4)


def test_steps_are_taken_layer_by_layer(files, tmp_path):
    base, finetuned, words = files
    run(parse([*words, "before=[drop]", "after=[{svc: {floor: 0.5}}, flatten]"]))
    steps = {"before": ["drop"], "after": [{"svc": {"floor": 0.5}}, "flatten"]}
    same(tmp_path / "out", apply(base, merge(base, finetuned, "tsv_m", **steps)))
    with pytest.raises(UserError, match="method tsv_m: after has no step 'svcc'"):
        run(parse([*words[:2], f"out={tmp_path / 'other'}", "after=[svcc]"]))


def test_shards_dtype_parameters_and_named_tasks(files, tmp_path):
    base, finetuned, words = files
    words[1] = f"models={{a: {tmp_path / 'task0.safetensors'}, b: {tmp_path / 'task1.pt'}}}"
    run(parse([*words, "shard_mb=0.002", "dtype=bfloat16", "rank_fraction=0.25", "exclude=['square*']"]))
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    from tsv_exp.config import Engine

    pair = {"a": finetuned["task0"], "b": finetuned["task1"]}
    same(
        tmp_path / "out",
        apply(base, merge(base, pair, engine=Engine(exclude=["square*"]), rank_fraction=0.25)),
        torch.bfloat16,
    )


@pytest.mark.parametrize("words", [["alpha=1e30", "dtype=bfloat16"], ["method=tsv_c", "dtype=float16"]])
def test_what_was_written_before_a_value_that_cannot_be_does_not_stop_the_corrected_command(tmp_path, words):
    tensors = {f"{name}.weight": torch.full((4, 5), float(i)) for i, name in enumerate("abc")}
    save_file(tensors, tmp_path / "base.safetensors")
    tensors = {name: weight + 1 for name, weight in tensors.items()}
    save_file(tensors | {"c.weight": torch.full((4, 5), 1e30)}, tmp_path / "a.safetensors")
    given = [f"base={tmp_path}/base.safetensors", f"models={tmp_path}/a.safetensors", f"out={tmp_path}/out"]
    with pytest.raises(UserError, match=r"tensor 'c.weight.*' of the result is too large"):
        run(parse([*given, "shard_mb=1e-4", *words]))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [".tsv-merge", "writing.lock"]
    run(parse([*given, "shard_mb=1e-4"]))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3


@pytest.mark.parametrize("method", PER_TASK)
def test_methods_with_a_model_per_task(files, tmp_path, method):
    base, finetuned, words = files
    run(parse([*words, f"method={method}", "shard_mb=0.01"]))
    stored, merged = load_merged(tmp_path / "out"), merge(base, finetuned, method)
    for task in finetuned:
        got = {k: v.double() for k, v in apply(base, stored, 1.0, task).items() if v.is_floating_point()}
        close(got, {k: v.double() for k, v in apply(base, merged, 1.0, task).items() if k in got}, 1e-6)
    assert (stored.stored_bytes, stored.stored_bytes_without_base) == (
        merged.stored_bytes,
        merged.stored_bytes_without_base,
    )
    on_disk = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert merged.stored_bytes_without_base <= on_disk <= merged.stored_bytes_without_base + 20000, (
        "headers beside the data"
    )


def test_empty_layers_tell_nothing_of_the_form(tmp_path):
    empty = {"empty.weight": torch.zeros(0, 16), "empty.bias": torch.zeros(0)}
    models = {
        name: empty | {"a.weight": torch.randn(8, 8), "a.bias": torch.randn(8)} for name in ("base", "task0", "task1")
    }
    for name, tensors in models.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    paths = ",".join(f"{tmp_path}/{task}.safetensors" for task in ("task0", "task1"))
    run(parse([f"base={tmp_path}/base.safetensors", f"models=[{paths}]", f"out={tmp_path}/out", "method=individual"]))
    stored = load_merged(tmp_path / "out")
    for task in ("task0", "task1"):
        close(apply(models["base"], stored, 1.0, task), models[task], 1e-6)


def test_one_task_of_a_method_with_many(files, tmp_path):
    base, finetuned, words = files
    run(parse([*words, "method=tsv_c", "task=task1"]))
    same(tmp_path / "out", apply(base, merge(base, finetuned, "tsv_c"), 1.0, "task1"))


def test_finished_files_are_kept_and_damaged_ones_made_again(files, tmp_path):
    words = [*files[2], "shard_mb=0.002"]
    run(parse(words))
    first, second = sorted((tmp_path / "out").glob("model-*.safetensors"))[:2]
    content, kept = first.read_bytes(), second.stat().st_mtime_ns
    first.write_bytes(content[:-4] + b"junk")
    run(parse(words))
    assert first.read_bytes() == content
    assert second.stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="contains something else"):
        run(parse([*words, "alpha=0.3"]))


def test_what_another_version_began_is_not_gone_on_with(files, monkeypatch):
    run(parse(files[2]))
    monkeypatch.setattr(one_model, "program", lambda: "another version")
    with pytest.raises(UserError, match="contains something else"):
        run(parse(files[2]))


def test_an_index_stands_for_its_folder(files, tmp_path):
    base, _, words = files
    for number, names in enumerate((sorted(base)[:5], sorted(base)[5:])):
        save_file({name: base[name] for name in names}, tmp_path / "base" / f"{number}.safetensors")
    places = {name: f"{int(i >= 5)}.safetensors" for i, name in enumerate(sorted(base))}
    (tmp_path / "base" / "model.safetensors").unlink()
    index = tmp_path / "base" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    beside = ["config.json", "qwen.tiktoken", "vocabulary.bpe"]
    for name in beside:
        (tmp_path / "base" / name).touch()
    words[0] = f"base={index}"
    run(parse(words))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {".tsv-merge", ".gitignore", "README.md", "tsv_merge.json", "model.safetensors", *beside}
    save_file({name: base[name] + 1 for name in sorted(base)[:5]}, tmp_path / "base" / "0.safetensors")
    with pytest.raises(UserError, match="contains something else"):
        run(parse(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method"], "name=value"),
        (["base=x"], "models is missing"),
        (["method=tsv"], "unknown method 'tsv'"),
        (["density=0.2"], "no parameter 'density'"),
        (["task=x"], "task=x: choose from: task0, task1, task2"),
        (["task=task1"], "task=task1: the result is one model for all tasks; leave task= out"),
        (["svd=fast"], "svd=fast: choose from: auto, exact"),
        (["device=foo"], "device=foo"),
        (["device=cuda:99"], "device=cuda:99"),
        (["rank_fraction=abc"], "rank_fraction='abc'"),
        (["exclude='emb'"], r"exclude='emb' matches none.*\(frozen.weight, "),
        (["exclude='*.bias'"], "matches none"),
        (["base=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_a_user_can_mend_is_one_line(files, words, message):
    given = [] if words in (["base=x"], ["method"]) else files[2]
    with pytest.raises(UserError, match=message) as error:
        run(parse([*given, *words]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_what_the_dtype_cannot_hold_is_an_error_and_the_folder_is_free_again(files, tmp_path, method):
    base, finetuned, words = files
    for weights, file in ((base, "base/model"), (finetuned["task0"], "task0")):
        weights["norm.bias"][4] = 1e5 * (1 + (file == "task0"))
        save_file(weights, tmp_path / f"{file}.safetensors")
    words = [*words, f"method={method}"]
    with pytest.raises(UserError, match=r"'norm.bias' .*float16; give dtype=bfloat16"):
        run(parse([*words, "dtype=float16"]))
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [".tsv-merge"]
    run(parse([*words, "dtype=bfloat16"]))


def test_parts_that_another_command_has_finished_are_not_overwritten(files, tmp_path):
    (tmp_path / "out" / ".tsv-merge").mkdir(parents=True)
    (tmp_path / "out" / ".tsv-merge" / "model-0123.safetensors").touch()
    with pytest.raises(UserError, match="contains something else"):
        run(parse(files[2]))


@pytest.mark.parametrize("wrong", [True, False])
def test_a_line_counts_the_decompositions_that_were_made_exactly(files, monkeypatch, capsys, wrong):
    if wrong:
        gram = fast.gram
        monkeypatch.setattr(fast, "gram", lambda x, *_: 1.01 * gram(x))
    monkeypatch.setattr(sys, "argv", ["tsv-merge", *files[2]])
    monkeypatch.setattr(logging.getLogger("tsv_exp.merging.engine"), "handlers", [])
    main()
    lines = re.findall(r"\d+ of \d+ decompositions were computed exactly", capsys.readouterr().err)
    assert len(lines) == wrong


def test_the_folder_opens_in_other_libraries(files, tmp_path):
    run(parse([*files[2], "method=weight_average"]))
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(files[0])


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"])
def test_open_clip_opens_the_folder(tmp_path, file):
    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8},
        "text_cfg": {"layers": 1, "width": 16, "heads": 2, "context_length": 8, "vocab_size": 20},
    }
    base, model = (open_clip.CLIP(**config).state_dict() for _ in range(2))
    (tmp_path / "base").mkdir()
    (save_file if file.endswith(".safetensors") else torch.save)(base, tmp_path / "base" / file)
    (tmp_path / "base" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(model, tmp_path / "a.safetensors")
    run(
        parse(
            [
                f"base={tmp_path / 'base'}",
                f"models={tmp_path / 'a.safetensors'}",
                f"out={tmp_path / 'out'}",
                "shard_mb=0.001",
            ]
        )
    )
    opened = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").state_dict()
    same(tmp_path / "out", {name: opened[name] for name in base})
    assert not torch.equal(opened["visual.proj"], base["visual.proj"])
