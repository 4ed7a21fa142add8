import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from models import close, matrix, zoo
from safetensors.torch import load_file, save_file

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.commands.merge import main, run
from tsv_exp.decompositions import fast
from tsv_exp.merge_files import one_model
from tsv_exp.merge_files.options.options import parse

PER_TASK = ["individual", "tsv_c", "tall_mask", "emr"]


@pytest.fixture
def files(tmp_path):
    """base, finetuned and the words that name their files: one per format."""
    base, finetuned = zoo(3, torch.float32)
    g = torch.Generator().manual_seed(1)
    for model in (base, *finetuned.values()):  # large enough for the fast decompositions
        model["large.weight"] = matrix(128, 96, g, dtype=torch.float32)
    (tmp_path / "base").mkdir()
    save_file(base, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    save_file(finetuned["task0"], tmp_path / "task0.safetensors")
    for task in ("task1", "task2"):
        torch.save(finetuned[task], tmp_path / f"{task}.pt")
    models = ",".join(str(tmp_path / name) for name in ("task0.safetensors", "task1.pt", "task2.pt"))
    return base, finetuned, [f"base={tmp_path / 'base'}", f"models=[{models}]", f"out={tmp_path / 'out'}"]


def same(folder, expected, dtype=torch.float32):
    weights = read(folder)
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        wanted = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(weights[name], wanted), name


@pytest.mark.parametrize("method", ["tsv_m", "ties", "consensus_ta"])
def test_the_same_as_in_memory(files, tmp_path, method):
    base, finetuned, words = files
    run(parse([*words, f"method={method}", "alpha=0.7"]))
    same(tmp_path / "out", apply(base, merge(base, finetuned, method), 0.7))
    assert (tmp_path / "out" / "config.json").is_file()


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
    with pytest.raises(UserError, match="holds something else"):
        run(parse([*words, "alpha=0.3"]))


def test_killed_and_run_again(files, tmp_path):
    words = [*files[2], "shard_mb=0.002"]
    process = subprocess.Popen([sys.executable, "-m", "tsv_exp.merge_files", *words], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "out").glob("model-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    halves = [
        tmp_path / "out" / place / ".model-00001-of-00002.safetensors.host-1.abc.partial"
        for place in (".", ".tsv-merge")
    ]
    for half in halves:  # it may have been killed between two files
        half.write_bytes(b"half a file")
    run(parse(words))
    same(tmp_path / "out", apply(files[0], merge(files[0], files[1]), 1.0))
    assert not list((tmp_path / "out").rglob(".model*"))


def test_what_another_version_began_is_not_gone_on_with(files, monkeypatch):
    run(parse(files[2]))
    monkeypatch.setattr(one_model, "program", lambda: "another version")
    with pytest.raises(UserError, match="holds something else"):
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
    with pytest.raises(UserError, match="holds something else"):
        run(parse(words))


def torchrun(words, ranks):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "-m", "tsv_exp.merge_files", *words], env=environment, **quiet)


@pytest.mark.parametrize(("ranks", "shard_mb", "method"), [(2, 512, "tsv_m"), (2, 512, "tsv_c"), (3, 0.002, "tsv_m")])
def test_ranks_share_the_work_and_change_nothing(files, tmp_path, ranks, shard_mb, method):
    words = [*files[2], f"shard_mb={shard_mb}", f"method={method}"]
    with patch.object(fast, "leading", wraps=fast.leading) as fast_way:
        run(parse(words))
    assert fast_way.called
    shared = [word.replace("/out", "/shared") for word in words]
    process = torchrun(shared, ranks)
    if ranks == 3:  # one of them is killed at work: the others stop, and the same command ends as if nothing had been
        while process.poll() is None and not (tmp_path / "shared" / ".tsv-merge" / "recipe").exists():
            time.sleep(0.002)
        victim = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1]
        os.kill(int(victim), signal.SIGKILL)
        assert process.wait() != 0
        process = torchrun(shared, ranks)
    assert process.wait() == 0
    alone = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.safetensors")}
    assert alone == {file.name: file.read_bytes() for file in (tmp_path / "shared").glob("*.safetensors")}
    assert not list((tmp_path / "shared" / ".tsv-merge").glob("*.safetensors")), "pieces are cleared away"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method"], "name=value"),
        (["base=x"], "models is missing"),
        (["method=tsv"], "unknown method 'tsv'"),
        (["density=0.2"], "no parameter 'density'"),
        (["task=x"], "task=x: choose from: task0, task1, task2"),
        (["svd=fast"], "engine.svd=fast"),
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


def test_killed_before_there_was_a_recipe(files, tmp_path):
    (tmp_path / "out" / ".tsv-merge").mkdir(parents=True)
    (tmp_path / "out" / ".tsv-merge" / ".recipe.abc").touch()
    run(parse(files[2]))
    same(tmp_path / "out", apply(files[0], merge(files[0], files[1]), 1.0))


def test_parts_that_another_command_has_finished_are_not_overwritten(files, tmp_path):
    (tmp_path / "out" / ".tsv-merge").mkdir(parents=True)
    (tmp_path / "out" / ".tsv-merge" / "model-0123.safetensors").touch()
    with pytest.raises(UserError, match="holds something else"):
        run(parse(files[2]))


@pytest.mark.parametrize("wrong", [True, False])
def test_a_line_counts_the_decompositions_that_were_made_exactly(files, monkeypatch, capsys, wrong):
    if wrong:
        gram = fast.gram
        monkeypatch.setattr(fast, "gram", lambda x: 1.01 * gram(x))
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
