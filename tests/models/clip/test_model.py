"""Checkpoints and images from local folders, and the labels of each family."""

from pathlib import Path

import pytest
import torch
import worlds
from safetensors.torch import save_file

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.models.clip.model import ClipModel
from tsv_exp.models.clip.names import clip_weights


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(worlds.whole(0), path)
    return str(path)


def model(pretrained: str, **changes: object) -> ClipModel:
    settings = {"name": "toy", "architecture": worlds.ARCHITECTURE, "pretrained": pretrained, "checkpoints": {}}
    return ClipModel(**settings | changes)


def paper_layout(folder: Path, tasks: list[str]) -> worlds.Weights:
    """Files as the paper's code saves them: an encoder with an open_clip model that has no text transformer."""
    clip = clip_weights(Reader(Path("memory"), worlds.whole(0)), "base")
    base = {f"model.{name}": clip[name].clone() for name in clip if not name.startswith("transformer.")}
    for number, task in enumerate(tasks):
        (folder / "toy" / f"{task}Val").mkdir(parents=True)
        tuned = {n: w + 0.1 * (number + 1) if n.startswith("model.visual.") else w for n, w in base.items()}
        torch.save(tuned, folder / "toy" / f"{task}Val" / "nonlinear_finetuned.pt")
    torch.save(base, folder / "toy" / f"{tasks[0]}Val" / "nonlinear_zeroshot.pt")
    return base


def test_the_papers_layout(pretrained: str, tmp_path: Path) -> None:
    base = paper_layout(tmp_path, ["MNIST", "SVHN"])
    clip = model(pretrained, checkpoints=str(tmp_path))
    tasks = [clip.catalogue()[name] for name in ("MNIST", "SVHN")]
    assert clip.family == "paper"
    assert set(clip.base()) == {name.removeprefix("model.") for name in base}
    encoder = clip.encoder()
    assert set(encoder.state_dict()) == set(clip.base())
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, worlds.EMBEDDING)
    stream = TaskVectors(clip.base(), clip.finetuned(tasks))
    torch.testing.assert_close(stream.layer("visual.conv1.weight").deltas[1], torch.full((32, 3, 8, 8), 0.2))
    assert not stream.layer("token_embedding.weight").deltas.any()
    with pytest.raises(UserError, match="no checkpoint of Cars; it has: MNIST, SVHN"):
        clip.finetuned([clip.catalogue()["Cars"]])


def test_a_folder_and_a_mapping(pretrained: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "SVHN").mkdir(parents=True)
    save_file(worlds.moved(worlds.vision(0), 3), folder / "MNIST.safetensors")
    save_file(worlds.moved(worlds.vision(0), 4), folder / "SVHN" / "model.safetensors")
    one = model(pretrained, checkpoints=str(folder))
    places = {"MNIST": str(folder / "MNIST.safetensors"), "SVHN": str(folder / "SVHN")}
    two = model(pretrained, checkpoints=places, family="hub")
    assert (one.family, two.family) == ("mine", "hub")
    tasks = [one.catalogue()[name] for name in ("MNIST", "SVHN")]
    first, second = one.finetuned(tasks), two.finetuned(tasks)
    for name in ("MNIST", "SVHN"):
        assert first[name].digest == second[name].digest
    assert first["MNIST"].digest != first["SVHN"].digest


def test_whole_clips_in_one_file_per_task(pretrained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = dict(model(pretrained)._clip)
    for number, name in enumerate(("MNIST", "SVHN")):
        folder = tmp_path / "path" / name
        folder.mkdir(parents=True)
        tuned = {key: weight + 0.1 if key.startswith("visual.") else weight for key, weight in whole.items()}
        if number:
            tuned["text_projection"] = tuned["text_projection"] + 1
        torch.save({"state_dict": tuned}, folder / "full.pt")
    clip = model(pretrained, checkpoints=f"{tmp_path}/path/{{task}}/full.pt", family="paper")
    found = clip.finetuned([clip.catalogue()[name] for name in ("MNIST", "SVHN")])
    assert set(found["SVHN"]) == set(clip.base())
    torch.testing.assert_close(found["MNIST"]["visual.proj"], clip.base()["visual.proj"] + 0.1)
    assert [message for message in caplog.messages if "text encoder differs" in message] == [
        f"checkpoint of SVHN ({tmp_path}/path/SVHN/full.pt): its text encoder differs from the base's in 1 tensors "
        "(text_projection, ...); only its image encoder is merged, and heads are computed by the base"
    ]
    with pytest.raises(UserError, match=r"Cars/full\.pt: there is no such file"):
        clip.finetuned([clip.catalogue()["Cars"]])


def test_the_merged_encoder_loads_into_open_clip(pretrained: str) -> None:
    import open_clip

    clip = model(pretrained)
    whole = open_clip.CLIP(**worlds.ARCHITECTURE)
    whole.load_state_dict(clip.complete({name: weight + 1 for name, weight in clip.base().items()}))
    assert torch.equal(whole.visual.proj, clip.base()["visual.proj"] + 1)


def test_labels_and_prompts_follow_the_family(pretrained: str) -> None:
    paper, hub = (model(pretrained, family=family).catalogue() for family in ("paper", "hub"))
    assert list(paper) == list(hub)
    assert len(paper) == 20
    assert (len(paper["EMNIST"].classes), len(hub["EMNIST"].classes)) == (10, 26)
    assert "digit character" in hub["EMNIST"].templates[0]
    assert (len(paper["STL10"].templates), len(hub["STL10"].templates)) == (18, 2)
    same = [name for name in paper if paper[name] == hub[name]]
    assert set(paper) - set(same) == {"EMNIST", "STL10"}


def test_one_folder_per_class(pretrained: str, tmp_path: Path) -> None:
    for split, count in (("train", 12), ("test", 3)):
        for number, name in enumerate(("River", "forest", "lake_or_sea")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(worlds.picture(100 * number + i, grey=i == 1))
    clip = model(pretrained)
    task = worlds.catalogue("hub", EuroSAT=str(tmp_path / "data"))["EuroSAT"]
    test = clip.split(task, "test")
    assert sorted(test.labels.tolist()) == [1] * 3 + [8] * 3 + [9] * 3
    assert test.inputs.shape == (9, 3, 32, 32)
    train, validation = clip.split(task, "train"), clip.split(task, "validation")
    assert (len(train), len(validation)) == (33, 3)
    before = clip.identity(task)
    (tmp_path / "data/test/forest/0.png").write_bytes(worlds.picture(9999))
    assert clip.identity(task) != before
    (tmp_path / "data/test/volcano").mkdir()
    with pytest.raises(UserError, match=r"'volcano' is not one of the task's classes"):
        model(pretrained).split(task, "test")


def test_the_hubs_layout_in_a_folder(pretrained: str, tmp_path: Path) -> None:
    worlds.parquet(tmp_path / "data/test-00000-of-00001.parquet", 10, 20)
    task = worlds.catalogue("hub", SVHN=str(tmp_path))["SVHN"]
    assert model(pretrained).split(task, "test").labels.tolist() == [i % 10 for i in range(20)]


def test_bad_local_data(pretrained: str, tmp_path: Path) -> None:
    clip = model(pretrained)
    tasks = worlds.catalogue("hub", MNIST=str(tmp_path / "absent"), SVHN=str(tmp_path))
    with pytest.raises(UserError, match=r"tasks\.MNIST\.data=.*no such folder"):
        clip.split(tasks["MNIST"], "test")
    (tmp_path / "test/3").mkdir(parents=True)
    with pytest.raises(UserError, match="empty"):
        clip.split(tasks["SVHN"], "test")
    (tmp_path / "test/3/x.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"row 0 is not an image"):
        clip.split(tasks["SVHN"], "test")
    assert not list((tmp_path / "cache").rglob("*.images"))


def test_bad_checkpoints(pretrained: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        model(pretrained, checkpoints=str(tmp_path / "absent")).catalogue()
    with pytest.raises(UserError, match="no checkpoint of Cars; it has: Venus; make one with tsv-finetune task=Cars"):
        model(pretrained, checkpoints={"Venus": "x"}).finetuned(worlds.first(1))
    (tmp_path / "toy/MNISTVal").mkdir(parents=True)
    torch.save(worlds.vision(0), tmp_path / "toy/MNISTVal/nonlinear_finetuned.pt")
    with pytest.raises(UserError, match=r"nonlinear_zeroshot\.pt"):
        model(pretrained, checkpoints=str(tmp_path)).catalogue()
    only_vision = tmp_path / "vision.safetensors"
    save_file(worlds.vision(0), only_vision)
    with pytest.raises(UserError, match=r"vision\.safetensors: lacks the text encoder"):
        model(str(only_vision)).base()
    (tmp_path / "broken.safetensors").write_bytes(b"xx")
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        model(str(tmp_path / "broken.safetensors")).base()
    with pytest.raises(UserError, match="no such file"):
        model("some where/else").base()


def test_values_that_are_not_finite(pretrained: str, tmp_path: Path) -> None:
    for name in ("visual_projection.weight", "text_model.final_layer_norm.bias"):
        damaged = worlds.whole(0)
        damaged[name][0] = float("nan")
        save_file(damaged, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"visual_projection\.weight\.safetensors: visual\.proj holds NaN or infinite"):
        model(str(tmp_path / "visual_projection.weight.safetensors")).base()
    clip = model(str(tmp_path / "text_model.final_layer_norm.bias.safetensors"))
    with pytest.raises(UserError, match=r"bias\.safetensors: ln_final\.bias holds NaN or infinite"):
        clip.head(clip.catalogue()["MNIST"])
    tuned = worlds.vision(0)
    tuned["vision_model.encoder.layers.1.self_attn.v_proj.bias"][3] = float("inf")
    save_file(tuned, tmp_path / "MNIST.safetensors")
    clip = model(pretrained, checkpoints=str(tmp_path))
    stream = TaskVectors(clip.base(), clip.finetuned([clip.catalogue()["MNIST"]]))
    with pytest.raises(UserError, match=r"attn\.in_proj_bias' of model 'MNIST' \(.*MNIST\.safetensors\) holds NaN"):
        [layer.deltas for layer in stream]


def test_a_truncated_checkpoint_and_one_with_code(pretrained: str, tmp_path: Path) -> None:
    save_file(worlds.vision(0), tmp_path / "MNIST.safetensors")
    content = (tmp_path / "MNIST.safetensors").read_bytes()
    (tmp_path / "MNIST.safetensors").write_bytes(content[: len(content) // 2])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "SVHN.pt")
    clip = model(pretrained, checkpoints=str(tmp_path))
    with pytest.raises(UserError, match=r"MNIST\.safetensors: truncated or damaged .*remove it, then download"):
        clip.finetuned([clip.catalogue()["MNIST"]])
    with pytest.raises(UserError, match=r"SVHN\.pt: holds more than tensors .*could run code"):
        clip.finetuned([clip.catalogue()["SVHN"]])


def test_a_foreign_architecture_is_named(pretrained: str) -> None:
    other = {**worlds.ARCHITECTURE, "vision_cfg": {**worlds.ARCHITECTURE["vision_cfg"], "layers": 3}}
    with pytest.raises(UserError, match=r"not of the architecture that model\.architecture names"):
        model(pretrained, architecture=other).encoder()
    with pytest.raises(UserError, match=r"model\.architecture=ViT-Z"):
        model(pretrained, architecture="ViT-Z").split(worlds.first(1)[0], "test")
