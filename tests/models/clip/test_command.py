"""tsv-exp on a toy CLIP, as a user types it, against a hub on loopback."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import worlds
from fresh import command, downloads, served, told
from hub import Hub
from safetensors.torch import load_file, save_file

from tsv_exp.checkpoints.readers import Reader, read
from tsv_exp.models.clip.names import clip_weights


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    # the data of the ninth task have vanished
    with served(tmp_path_factory.mktemp("hub"), worlds.first(9), worlds.first(8)) as server:
        yield server


def results(home: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(home.glob("outputs/**/results.json"))]


def test_one_run(hub: Hub, tmp_path: Path) -> None:
    found = told(hub, tmp_path, f"told['code'] = run(*{command(tmp_path, 'tasks=[EuroSAT,SVHN]')!r})")
    assert found["code"] == 0
    (result,) = results(tmp_path)
    assert result["status"] == "ok"
    assert result["checkpoints"]["family"] == "hub"
    assert set(result["test"]["accuracy"]) == {"EuroSAT", "SVHN"}
    assert len(result["validation"]) == 30
    assert set(result["finetuned"]["validation"]) == {"EuroSAT", "SVHN"}


def test_a_given_alpha_needs_no_validation_images(hub: Hub, tmp_path: Path) -> None:
    overrides = command(tmp_path, "tasks=[EuroSAT,SVHN]", "alpha=fixed", "alpha.value=1", "save_merged=true")
    assert told(hub, tmp_path, f"told['code'] = run(*{overrides!r})")["code"] == 0
    (result,) = results(tmp_path)
    assert result["finetuned"]["validation"] == {}
    assert set(result["finetuned"]["test"]) == {"EuroSAT", "SVHN"}
    assert len(downloads(hub, ".parquet")) == 2
    assert not downloads(hub, "train-00000-of-00001.parquet")
    (saved,) = result["saved"]
    assert saved.endswith("merged.safetensors")
    assert "visual.proj" in load_file(saved)
    assert f"merged model written to {saved}" in (Path(saved).parent / "tsv-exp.log").read_text()


def in_other_formats(hub: Hub, folder: Path) -> dict[str, Path]:
    """The hub's eight checkpoints in the paper's layout, and as one file per task."""
    places = {"paper": folder / "paper", "files": folder / "files"}
    places["files"].mkdir()
    clip = clip_weights(Reader(Path("memory"), worlds.whole(0)), "base")
    base = {name: clip[name].clone() for name in clip if name.startswith("visual.")}
    frozen = {f"model.{name}": clip[name].clone() for name in clip if not name.startswith("transformer.")}
    for task in worlds.first(8):
        repository = hub.root / "models/zoo" / f"clip_{task.source['checkpoint_name']}"
        tuned = {name: w.clone() for name, w in clip_weights(read(repository), task.name, base).items()}
        save_file({name: w.contiguous() for name, w in tuned.items()}, places["files"] / f"{task.name}.safetensors")
        inside = places["paper"] / "vit_b_32" / f"{task.name}Val"
        inside.mkdir(parents=True)
        torch.save(frozen | {f"model.{name}": w for name, w in tuned.items()}, inside / "nonlinear_finetuned.pt")
    torch.save(frozen, inside / "nonlinear_zeroshot.pt")
    return places


def test_eight_tasks_come_out_the_same_in_each_format(hub: Hub, tmp_path: Path) -> None:
    runs = [command(tmp_path, "tasks=8", "alpha=fixed", "alpha.value=1")]
    runs += [[*runs[0], f"model.checkpoints={place}"] for place in in_other_formats(hub, tmp_path).values()]
    assert told(hub, tmp_path, f"told['codes'] = [run(*typed) for typed in {runs!r}]")["codes"] == [0, 0, 0]
    found = results(tmp_path)
    assert [entry["checkpoints"]["family"] for entry in found] == ["hub", "paper", "files"]
    assert list(found[0]["test"]["accuracy"]) == [task.name for task in worlds.first(8)]
    for entry in found[1:]:
        assert entry["test"] == found[0]["test"]
        assert entry["finetuned"] == found[0]["finetuned"]
    assert len(downloads(hub, "model.safetensors")) == 8
    assert len(downloads(hub, ".parquet")) == 8


MINE = """
defaults: [vit_b_32]
checkpoints:
  EuroSAT: zoo/clip_eurosat
  SVHN: {folder}/mine.safetensors
"""


def test_checkpoints_and_data_listed_in_a_file_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text(MINE.format(folder=tmp_path), encoding="utf-8")
    shutil.copy(hub.root / "models/zoo/clip_svhn/model.safetensors", tmp_path / "mine.safetensors")
    worlds.parquet(tmp_path / "svhn/test-0.parquet", 10, 7)
    own = ["model=mine", f"hydra.searchpath=[file://{tmp_path}/conf]", "tasks=[SVHN,EuroSAT]", "method=tsv_m"]
    own.append(f"tasks.SVHN.data={tmp_path}/svhn")
    overrides = [*command(tmp_path)[1:], *own, "alpha=fixed", "alpha.value=1"]
    overrides = [one for one in overrides if not one.startswith("model.checkpoints")]
    assert told(hub, tmp_path, f"told['code'] = run(*{overrides!r})")["code"] == 0
    (result,) = results(tmp_path)
    assert result["tasks"] == ["SVHN", "EuroSAT"]
    assert result["checkpoints"]["family"] == "listed"
    assert round(7 * result["test"]["accuracy"]["SVHN"], 6) in range(8)  # of the seven images in the folder
    assert [name.split("/")[1] for name in downloads(hub, "model.safetensors")] == ["clip_eurosat"]
    assert len(downloads(hub, ".parquet")) == 1


def test_the_papers_table_with_a_data_set_that_is_gone(hub: Hub, tmp_path: Path) -> None:
    sets = "tasks=[EuroSAT,SVHN],[EuroSAT,SVHN,STL10]"
    sweep = command(tmp_path, "experiment=paper_table", "method=zero_shot,tsv_m", sets, "alpha=fixed", "alpha.value=1")
    found = told(hub, tmp_path, f"told['code'] = run(*{sweep!r})")
    assert found["code"] == 1
    cells = {(entry["method"], len(entry["tasks"])): entry for entry in results(tmp_path)}
    assert {cell: entry["status"] for cell, entry in cells.items()} == {
        ("zero_shot", 2): "ok",
        ("tsv_m", 2): "ok",
        ("zero_shot", 3): "failed",
        ("tsv_m", 3): "failed",
    }
    assert "data of STL10" in cells["tsv_m", 3]["error"]
    (table,) = tmp_path.glob("outputs/sweeps/*/*/table.md")
    compared = table.read_text(encoding="utf-8").split("2 tasks: measured and published")[1]
    measured = 100 * cells["zero_shot", 2]["test"]["accuracy"]["EuroSAT"]
    assert f"| zero_shot (α 1) | {measured:.2f} |" in compared
    assert "| published | 45.00 | 31.63 | 38.31 | 38.97 | average and normalized computed from the tasks |" in compared
    assert f"| difference | {measured - 45:+.2f} |".replace("-", "−") in compared
    assert "Published results belong to the hub family of checkpoints" in compared
    assert "2 ran, 0 reused, 2 without results" in found["stderr"]
    worlds.data(hub.root, worlds.first(9)[8:])  # it is back: only what failed is run again
    again = told(hub, tmp_path, f"told['code'] = run(*{sweep!r})")
    assert again["code"] == 0
    assert "2 ran, 2 reused" in again["stderr"]
    assert all("stl10" in request for request in downloads(hub, ".parquet"))
