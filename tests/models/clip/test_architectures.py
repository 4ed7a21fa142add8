"""Other networks that open_clip lists, against open_clip's own loading, preprocessing and tokenizing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from encoders import tokenizer as write_tokenizer
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from tsv_exp.errors import UserError
from tsv_exp.models.clip.model import ClipModel
from tsv_exp.models.clip.pretrained import Preprocessing, preprocessing, source_of
from tsv_exp.models.images import preprocess
from tsv_exp.tasks.task import Task

CPU = torch.device("cpu")
TEXT = {"width": 16, "heads": 2, "layers": 1, "context_length": 12}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
WORLDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "siglip": (
        {
            "embed_dim": 192,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": "vit_tiny_patch16_224",
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **TEXT,
                "vocab_size": 40,
                "hf_tokenizer_name": "owner/nowhere",
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
            },
        },
        HALF,
    ),
    "eva": (
        {
            "embed_dim": 24,
            "custom_text": True,
            "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token"},
            "text_cfg": {**TEXT, "vocab_size": 49408},
        },
        {},
    ),
    "resnet": (
        {
            "embed_dim": 24,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
            "text_cfg": {**TEXT, "vocab_size": 49408},
        },
        {"interpolation": "bilinear"},
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))


def published(folder: Path, kind: str) -> Any:
    """A folder as open_clip pushes it to the hub, and its network as open_clip loads it."""
    import open_clip

    architecture, preprocess_cfg = WORLDS[kind]
    folder.mkdir()
    if "hf_tokenizer_name" in architecture["text_cfg"]:
        write_tokenizer(folder)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": architecture, "preprocess_cfg": preprocess_cfg}), encoding="utf-8"
    )
    torch.manual_seed(0)
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    return open_clip.create_model_and_transforms(f"local-dir:{folder}")


@pytest.mark.filterwarnings("ignore")  # of the libraries that open_clip takes networks from
@pytest.mark.parametrize("kind", WORLDS)
def test_features_and_heads_are_open_clips(kind: str, tmp_path: Path) -> None:
    import open_clip

    whole, _, transform = published(tmp_path / "repo", kind)
    whole.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'repo'}")
    clip = ClipModel("toy", WORLDS[kind][0], str(tmp_path / "repo"), {}, family="own", device="cpu")
    picture = Image.open(io.BytesIO(worlds.picture(0, size=(50, 40))))
    pixels = preprocess(picture, clip._data.size, clip._data.resize)
    with torch.no_grad():
        features = clip.encoder()(clip.prepare(pixels[None], CPU))
        expected = whole.encode_image(transform(picture)[None])
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
        prompts = ["a good film", "a bad film"]
        texts = normalize(whole.encode_text(tokenize(prompts)), dim=-1)
    head = clip.head(Task("mood", ("good", "bad"), ("a {} film",)))
    torch.testing.assert_close(head, whole.logit_scale.exp().detach() * texts, atol=1e-4, rtol=1e-4)
    moved = {name: weight + 1 if weight.is_floating_point() else weight for name, weight in clip.base().items()}
    whole.load_state_dict(clip.complete(moved))  # what is saved is the whole network
    save_file(moved, tmp_path / "tuned.safetensors")
    again = ClipModel("toy", WORLDS[kind][0], str(tmp_path / "repo"), {"mood": str(tmp_path / "tuned.safetensors")})
    found = again.finetuned([Task("mood", ("good", "bad"), ())])["mood"]
    assert found.keys() == clip.base().keys()


def test_every_tag_of_open_clip_has_a_place_and_a_preprocessing() -> None:
    import open_clip

    places = {}
    for name, tag in open_clip.list_pretrained():
        try:
            places[name, tag] = source_of(name, tag)
        except UserError as error:
            assert "quick GELU" in str(error) or "by URL only" in str(error)  # noqa: PT017
    assert len(places) > 100
    assert places["ViT-B-16-SigLIP", "webli"] == "timm/ViT-B-16-SigLIP"
    assert places["ViT-B-32-quickgelu", "openai"].startswith("timm/")
    assert preprocessing("ViT-B-16-SigLIP", "webli") == Preprocessing((0.5,) * 3, (0.5,) * 3, resize_mode="squash")
    assert preprocessing("ViT-B-32-quickgelu", "openai") == Preprocessing()
    assert preprocessing("EVA02-B-16", "merged2b_s8b_b131k") == Preprocessing()


def test_weights_that_need_another_activation_are_refused() -> None:
    with pytest.raises(UserError, match=r"need the quick GELU; give model\.architecture=ViT-B-32-quickgelu"):
        source_of("ViT-B-32", "openai")
    with pytest.raises(UserError, match=r"model\.pretrained=laion: no such file .* of ViT-B-32 that open_clip lists: "):
        source_of("ViT-B-32", "laion")


def test_pictures_of_other_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="resizing by 'longest' is not supported"):
        _ = Preprocessing(resize_mode="longest").resize
