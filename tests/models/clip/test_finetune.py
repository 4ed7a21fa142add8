"""tsv-finetune's flow on a toy CLIP with a local folder of images, and its recipe."""

import json
import os
import time
from pathlib import Path

import forked
import pytest
import torch
import worlds
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from tsv_exp.commands import finetuning
from tsv_exp.commands.finetuning import run
from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import PublishedRecipe
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.models.clip.model import ClipModel


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    save_file(worlds.whole(0), tmp_path / "base.safetensors")
    for split in ("train", "test"):
        for name in ("river", "forest"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(9):
                (folder / f"{i}.png").write_bytes(worlds.picture(i))
    plain = json.dumps(worlds.ARCHITECTURE).replace('"', "")
    overrides = [f"model.architecture={plain}", f"model.pretrained={tmp_path}/base.safetensors", "device=cpu"]
    overrides += [f"task.data={tmp_path}/data", f"output={tmp_path}/out", "finetune.batch_size=8"]
    return [*overrides, "task=EuroSAT", "finetune.precision=float32"]


def composed(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("finetune", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def test_a_checkpoint_that_the_benchmark_takes(settings: list[str], tmp_path: Path) -> None:
    turns: list[int] = []
    path = run(composed([*settings, "epochs=2", "finetune.lr=1e-3"]), 0, lambda: turns.append(1))
    assert path == tmp_path / "out/vit_b_32/EuroSAT.safetensors"
    assert turns == [1]
    assert not path.with_suffix(".training").exists()
    model = ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), str(path.parent))
    tuned = model.finetuned([model.catalogue()["EuroSAT"]])
    assert all(layer.deltas.any() for layer in TaskVectors(model.base(), tuned))
    before = path.stat().st_mtime_ns
    assert run(composed(settings), 0, lambda: None) is None  # it was there before
    assert path.stat().st_mtime_ns == before


def test_an_output_that_cannot_be_written_is_found_before_the_training(settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write into .*out/vit_b_32: .*; a file is where a folder should be"):
        run(composed([*settings, "epochs=1000000"]), 0, lambda: None)


def test_low_rank_factors(settings: list[str], tmp_path: Path) -> None:
    few = [*settings, "finetune=lora", "finetune.lora.rank=2", "epochs=1", "finetune.lr=1e-3"]
    path = run(composed(few), 0, lambda: None)
    model = ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), str(path.parent))
    vectors = TaskVectors(model.base(), model.finetuned([model.catalogue()["EuroSAT"]]))
    changed = {layer.name: layer.deltas[0] for layer in vectors if layer.deltas.any()}
    assert {name for name in changed if not name.endswith(("weight", "proj"))} == set()
    assert {int(torch.linalg.matrix_rank(delta.double(), rtol=1e-4)) for delta in changed.values()} == {2}
    for wrong, line in {
        "finetune.lora.rank=0": r"finetune\.lora\.rank=0: give a positive number",
        "finetune=full": r"finetune\.lora\.rank: for low-rank factors only; give finetune=lora too",
    }.items():
        with pytest.raises(UserError, match=line):
            run(composed([*few, wrong]), 0, lambda: None)


def test_a_full_disk_keeps_the_last_saved_step(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, save_state = [*settings, "epochs=3", "save_every=1"], torch.save
    state = tmp_path / "out/vit_b_32/EuroSAT.training"

    def save(content: object, file: object) -> None:
        if state.exists():
            raise OSError(28, "No space left on device")
        save_state(content, file)

    with monkeypatch.context() as crowded:
        crowded.setattr(torch, "save", save)
        with pytest.raises(UserError, match=r"cannot write .*EuroSAT\.training: No space left on device; free space"):
            run(composed(overrides), 0, lambda: None)
    assert list(state.parent.iterdir()) == [state]
    assert torch.load(state)["step"] == 1
    assert run(composed(overrides), 0, lambda: None).exists()


def features(file: Path, settings: list[str]) -> Tensor:
    """What the encoder of a checkpoint makes of the training images."""
    model = instantiate(composed(settings).model)
    encoder = model.encoder()
    encoder.load_state_dict(load_file(file))
    (folder,) = (setting.partition("=")[2] for setting in settings if setting.startswith("task.data="))
    task = worlds.catalogue("hub", EuroSAT=folder)["EuroSAT"]
    return encoder(model.prepare(model.split(task, "train").inputs[:], torch.device("cpu")))


def test_a_killed_command_goes_on_under_torchrun(settings: list[str], tmp_path: Path) -> None:
    overrides = [*settings, "epochs=40", "finetune.lr=1e-4", "finetune.warmup_steps=5", "save_every=1"]
    state, command = tmp_path / "out/vit_b_32/EuroSAT.training", forked.entry("finetune")
    killed = forked.Program(command, *overrides, cwd=tmp_path, env=os.environ)
    while killed.process.is_alive() and not state.exists():
        time.sleep(0.002)
    killed.process.kill()
    killed.result()
    assert [path.name for path in state.parent.iterdir() if not path.name.startswith(".")] == [state.name]
    there = torch.load(state)["step"]
    assert 1 <= there < 80
    ends = forked.ranks(command, *overrides, count=2, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert [end.returncode for end in ends] == [0, 0], ends
    assert "".join(end.stdout for end in ends).count("wrote ") == 1  # the first process
    whole = run(composed([*overrides, f"output={tmp_path}/whole"]), 0, lambda: None)
    made = state.with_suffix(".safetensors")
    assert not state.exists()
    base = tmp_path / "still.safetensors"
    save_file(ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), {}).base(), base)
    before, alone, shared = (features(file, settings) for file in (base, whole, made))
    assert (alone - before).norm() > 0.1 * before.norm()
    assert (alone - shared).norm() < 1e-3 * (alone - before).norm()


@pytest.mark.parametrize(
    ("wanted", "device", "backend"),
    [
        ("auto", "cuda:1", "nccl"),
        ("cuda", "cuda:0", "nccl"),
        ("cuda:0", "cuda:0", "gloo"),  # all processes share it, which NCCL refuses
        ("cuda", "cuda", "gloo"),
        ("auto", "cpu", "gloo"),
        ("cpu", "cpu", "gloo"),
    ],
)
def test_all_processes_choose_the_same_backend(
    wanted: str, device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(finetuning, "world_size", lambda: 2)
    monkeypatch.setattr(finetuning, "rank_device", lambda _: torch.device(device))
    monkeypatch.setattr(distributed, "init_process_group", lambda name, **_: chosen.append(name))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with finetuning._processes(wanted) as (rank, _):
        assert (rank, chosen) == (1, [backend])


@pytest.mark.gpu
def test_two_processes_that_share_a_gpu_train_as_one_on_the_cpu(settings: list[str], tmp_path: Path) -> None:
    overrides = [*settings, "epochs=8", "finetune.lr=1e-4", "finetune.warmup_steps=5"]
    base = tmp_path / "still.safetensors"
    save_file(ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), {}).base(), base)
    made = [base, run(composed([*overrides, f"output={tmp_path}/cpu"]), 0, lambda: None)]
    made.append(run(composed([*overrides, f"output={tmp_path}/gpu", "device=cuda"]), 0, lambda: None))
    words = [*overrides, f"output={tmp_path}/both", "device=cuda:0"]
    ends = forked.ranks(forked.entry("finetune"), *words, count=2, cwd=tmp_path, env=os.environ)
    assert [end.returncode for end in ends] == [0, 0], ends
    made.append(tmp_path / "both/vit_b_32/EuroSAT.safetensors")
    before, alone, on_gpu, shared = (features(file, settings) for file in made)
    for found in (on_gpu, shared):
        assert (found - alone).norm() < 1e-2 * (alone - before).norm()


def test_bad_settings(settings: list[str]) -> None:
    with pytest.raises(UserError, match="epochs=0"):
        run(composed([*settings, "epochs=0"]), 0, lambda: None)
    with pytest.raises(MissingConfigException, match=r"Could not find 'task/Venus'(?s:.*)\tCars"):
        composed([*settings, "task=Venus"])


def test_out_of_memory_keeps_what_was_saved(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*settings, "epochs=3", "save_every=1"]
    whole = load_file(run(composed([*overrides, f"output={tmp_path}/whole"]), 0, lambda: None))

    def full(*_: object) -> None:
        if (tmp_path / "out/vit_b_32/EuroSAT.training").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    with monkeypatch.context() as crowded:
        crowded.setattr("tsv_exp.finetuning.training._check", full)
        with pytest.raises(
            UserError, match=r"cpu is out of memory .*finetune\.batch_size=8 .*torchrun .*saved state remains$"
        ):
            run(composed(overrides), 0, lambda: None)
    assert [path.name for path in (tmp_path / "out/vit_b_32").iterdir()] == ["EuroSAT.training"]
    again = load_file(run(composed(overrides), 0, lambda: None))
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())


def test_the_published_recipe() -> None:
    recipe = PublishedRecipe(lr=1.0, steps=2000)
    rates = torch.tensor([recipe.rate(step) for step in range(2000)])
    assert rates[0] == pytest.approx(1 / 500)
    assert rates[499] == rates[500] == 1
    assert rates[1250] == pytest.approx(0.5)
    assert rates[-1] < 1e-5
    assert (rates[500:].diff() < 0).all()
