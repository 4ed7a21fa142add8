"""Merges with a model per task on disk: what is loaded is what was merged."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from models import zoo
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints.formats import DESCRIPTION
from tsv_exp.checkpoints.readers import file_digest
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

PER_TASK = ["individual", "tsv_c", "tall_mask", "emr"]
Models = dict[str, dict[str, Tensor]]


@pytest.fixture
def models(tmp_path: Path) -> tuple[dict[str, Tensor], Models, list[str]]:
    """A base, the fine-tuned models of tasks named as on the hub, and the words that merge them."""
    base, finetuned = zoo(2, torch.float32)
    finetuned = dict(zip(("ours/cars", "theirs/cars"), finetuned.values(), strict=True))
    save_file(base, tmp_path / "base.safetensors")
    for i, model in enumerate(finetuned.values()):
        save_file(model, tmp_path / f"{i}.safetensors")
    named = ", ".join(f"{task}: {tmp_path / str(i)}.safetensors" for i, task in enumerate(finetuned))
    words = [f"base={tmp_path / 'base.safetensors'}", f"models={{{named}}}", f"out={tmp_path / 'out'}"]
    return base, finetuned, words


@pytest.mark.parametrize("method", PER_TASK)
def test_alpha_scales_the_task_vectors_and_tasks_may_be_named_as_on_the_hub(models, tmp_path, method):
    base, finetuned, words = models
    run(parse([*words, f"method={method}", "alpha=0.5"]))
    stored, merged = load_merged(tmp_path / "out"), merge(base, finetuned, method)
    assert stored.tasks == tuple(finetuned)
    for task in finetuned:
        got = apply(base, stored, task=task)
        torch.testing.assert_close(got, apply(base, merged, 0.5, task))
        assert not torch.equal(got["tall.weight"], base["tall.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("method", PER_TASK)
def test_sizes_are_those_of_the_files(models, tmp_path, method, dtype):
    run(parse([*models[2], f"method={method}", f"dtype={dtype}"]))
    stored = load_merged(tmp_path / "out")
    on_disk = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert on_disk - 8000 < stored.stored_bytes_without_base <= on_disk, "a header beside the data"


def test_tensors_of_an_unknown_task_are_an_error(models, tmp_path):
    run(parse([*models[2], "method=tsv_c"]))
    place = tmp_path / "out" / DESCRIPTION
    place.write_text(json.dumps(json.loads(place.read_text()) | {"tasks": ["ours/cars", "theirs/boats"]}))
    with pytest.raises(UserError, match=r"theirs%2Fcars belongs to no layer and task of its merged.json; merge ag"):
        load_merged(tmp_path / "out")


def test_a_task_that_changes_nothing_is_the_base(models, tmp_path):
    base, _, words = models
    save_file(base, tmp_path / "1.safetensors")
    run(parse([*words, "method=individual"]))
    torch.testing.assert_close(apply(base, load_merged(tmp_path / "out"), task="theirs/cars"), base)


def _embeddings(tmp_path: Path) -> tuple[dict[str, Tensor], Models, list[str]]:
    base = {"embeddings.weight": torch.randn(60, 7), "dense.weight": torch.randn(9, 9)}
    finetuned = {task: {name: weight.clone() for name, weight in base.items()} for task in "ab"}
    for number, model in enumerate(finetuned.values()):
        model["embeddings.weight"][[3, 20 + number]] += torch.randn(2, 7)
        model["dense.weight"] += torch.randn(9, 9)
        save_file(model, tmp_path / f"{number}.safetensors")
    save_file(base, tmp_path / "base.safetensors")
    words = [
        f"base={tmp_path}/base.safetensors",
        f"models={{a: {tmp_path}/0.safetensors, b: {tmp_path}/1.safetensors}}",
    ]
    return base, finetuned, [*words, f"out={tmp_path / 'out'}", "method=tsv_c", "exclude=['embeddings.*']"]


@pytest.mark.parametrize("shape", [(1, 9), (3, 1, 9)])
def test_layers_with_fewer_rows_than_tasks_stay_the_bases(tmp_path, shape):
    base = {"experts.down_proj": torch.randn(shape), "w": torch.randn(6, 6)}
    save_file(base, tmp_path / "base.safetensors")
    for task in "ab":
        save_file(
            {name: weight + torch.randn(weight.shape) for name, weight in base.items()},
            tmp_path / f"{task}.safetensors",
        )
    words = [f"base={tmp_path / 'base.safetensors'}", f"out={tmp_path / 'out'}", "method=tsv_c"]
    run(parse([*words, f"models=[{tmp_path / 'a.safetensors'}, {tmp_path / 'b.safetensors'}]"]))
    found = apply(base, load_merged(tmp_path / "out"), task="a")
    assert torch.equal(found["experts.down_proj"], base["experts.down_proj"])
    assert not torch.equal(found["w"], base["w"])


def test_of_embeddings_only_changed_rows_are_stored_exactly(tmp_path):
    base, finetuned, words = _embeddings(tmp_path)
    run(parse(words))
    content = load_file(tmp_path / "out" / "merged.safetensors")
    assert content["embeddings.weight/b/rows"].tolist() == [3, 21]
    assert content["embeddings.weight/b/delta"].shape == (2, 7)
    stored = load_merged(tmp_path / "out")
    for task, model in finetuned.items():
        assert torch.equal(apply(base, stored, task=task)["embeddings.weight"], model["embeddings.weight"])
    on_disk = (tmp_path / "out" / "merged.safetensors").stat().st_size
    assert on_disk - 2000 < stored.stored_bytes_without_base <= on_disk


@pytest.mark.parametrize("rows", [[21, 3], [3, 3], [3, 60], [-1, 3], [3.0, 21.0], [[3, 21]], [3]])
def test_rows_that_are_none_are_an_error(tmp_path, rows):
    run(parse(_embeddings(tmp_path)[2]))
    file = tmp_path / "out" / "merged.safetensors"
    dtype = torch.float32 if isinstance(rows[0], float) else torch.int32
    save_file(load_file(file) | {"embeddings.weight/b/rows": torch.tensor(rows, dtype=dtype)}, file)
    place = tmp_path / "out" / DESCRIPTION
    place.write_text(json.dumps(json.loads(place.read_text()) | {"files": {file.name: file_digest(file)}}))
    with pytest.raises(UserError, match=r"the tensor 'embeddings\.weight/b/.*' is not what its merged\.json says"):
        load_merged(tmp_path / "out")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A merge by task that is read again and again, and its description."""
    folder = tmp_path_factory.mktemp("written")
    base, finetuned = zoo(2, torch.float32)
    for name, weights in {"base": base, **finetuned}.items():
        save_file(weights, folder / f"{name}.safetensors")
    models = ",".join(str(folder / f"{task}.safetensors") for task in finetuned)
    run(parse([f"base={folder / 'base.safetensors'}", f"models=[{models}]", f"out={folder / 'out'}", "method=tsv_c"]))
    return folder / "out", json.loads((folder / "out" / DESCRIPTION).read_text())


LAYER = "tall.weight"


def test_steps_are_a_record_and_name_nothing_that_is_imported(written, tmp_path, monkeypatch):
    folder, description = written
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(folder, tmp_path / "out")
    steps = {"params": {"rank_fraction": None, "before": ["harmful.step"], "after": "harmful.step"}}
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(description | steps))
    assert load_merged(tmp_path / "out").params == {"rank_fraction": None}


@pytest.mark.parametrize(
    "change",
    [
        *({"alpha": value} for value in (math.nan, math.inf, 1e308, "1", "a\nb", None, True, 10**400)),
        *({"tasks": value} for value in ([], "task0", ["task0", "task0"], [3], ["task0"], None)),
        *({"base_bytes": value} for value in (-1, 0, 1e9, "1", 10**30, None)),
        *({"files": value} for value in ({}, [], None, {"../x": "0"}, {"x" * 300: "0"}, {"merged.safetensors": "0"})),
        *({"method": value} for value in ("nothing", 3, ["tsv_c"])),
        *({"params": value} for value in (3, {"density": 1}, {"rank_fraction": "x"})),
        *({"layers": value} for value in (3, [], {LAYER: 3}, {})),
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_description_that_cannot_be_is_one_line(written, tmp_path, change):
    folder, description = written
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(description | change))
    with pytest.raises(UserError) as found:
        load_merged(tmp_path / "out")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "layer",
    [
        *({"dtype": value} for value in ("int8", "complex64", "Tensor", "", None, "bool")),
        *({"shape": value} for value in ([1 << 40], [-1, 4], [1 << 20, 1 << 30], "3", [2.5, 4], [], None, [3, 4, 5])),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be_is_one_line(written, tmp_path, layer):
    folder, description = written
    shutil.copytree(folder, tmp_path / "out")
    changed = {**description, "layers": {**description["layers"], LAYER: description["layers"][LAYER] | layer}}
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(changed))
    with pytest.raises(UserError) as found:
        load_merged(tmp_path / "out")
    assert "\n" not in str(found.value)


def test_weights_that_are_no_numbers_are_one_line(written, tmp_path):
    folder, description = written
    shutil.copytree(folder, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "merged.safetensors")
    key = next(name for name in stored if name.endswith("/s"))
    stored[key][0] = math.nan
    save_file(stored, tmp_path / "out" / "merged.safetensors")
    digest = hashlib.sha256((tmp_path / "out" / "merged.safetensors").read_bytes()).hexdigest()
    description = description | {"files": {"merged.safetensors": digest}}
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"is not what its merged.json says"):
        load_merged(tmp_path / "out")
