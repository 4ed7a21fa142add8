"""Features of mapped weights against CLIP's forward pass written out from its definition, on transformers' names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from worlds import ARCHITECTURE, EMBEDDING, WIDTH, Weights, moved, vision, whole

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.models.clip import network
from tsv_exp.models.clip.names import clip_weights

CPU = torch.device("cpu")


def _reader(weights: Weights) -> Reader:
    return Reader(Path("memory"), weights)


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _transformer(x: Tensor, weights: Weights, prefix: str, layers: int, heads: int, causal: bool) -> Tensor:
    for i in range(layers):
        at = f"{prefix}encoder.layers.{i}."
        dense = lambda x, name: linear(x, weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"])  # noqa: B023, E731
        y = _norm(x, weights, f"{at}layer_norm1")
        q, k, v = (dense(y, f"self_attn.{n}_proj").unflatten(-1, (heads, -1)).transpose(1, 2) for n in "qkv")
        mixed = scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + dense(mixed, "self_attn.out_proj")
        y = dense(_norm(x, weights, f"{at}layer_norm2"), "mlp.fc1")
        x = x + dense(y * torch.sigmoid(1.702 * y), "mlp.fc2")
    return x


def image_features(images: Tensor, weights: Weights) -> Tensor:
    at = "vision_model.embeddings."
    patches = torch.nn.functional.conv2d(images, weights[f"{at}patch_embedding.weight"], stride=8)
    tokens = patches.flatten(2).transpose(1, 2)
    x = torch.cat([weights[f"{at}class_embedding"].expand(len(images), 1, WIDTH), tokens], 1)
    x = _norm(x + weights[f"{at}position_embedding.weight"], weights, "vision_model.pre_layrnorm")
    x = _transformer(x, weights, "vision_model.", layers=2, heads=2, causal=False)[:, 0]
    return linear(_norm(x, weights, "vision_model.post_layernorm"), weights["visual_projection.weight"])


def text_features(tokens: Tensor, weights: Weights) -> Tensor:
    at = "text_model.embeddings."
    x = weights[f"{at}token_embedding.weight"][tokens] + weights[f"{at}position_embedding.weight"]
    x = _norm(
        _transformer(x, weights, "text_model.", layers=1, heads=2, causal=True), weights, "text_model.final_layer_norm"
    )
    return linear(x[torch.arange(len(x)), tokens.argmax(1)], weights["text_projection.weight"])


@pytest.fixture(scope="module")
def theirs() -> Weights:
    return whole(0)


@pytest.fixture(scope="module")
def base(theirs: Weights) -> Weights:
    ours = clip_weights(_reader(theirs), "base")
    return {name: ours[name] for name in ours if name.startswith("visual.")}


def test_both_towers_give_the_same_features(theirs: Weights, base: Weights) -> None:
    images = torch.randn(3, 3, 32, 32)
    encoder = network.image_encoder(ARCHITECTURE, base, "base")
    torch.testing.assert_close(encoder(images), image_features(images, theirs), atol=1e-5, rtol=1e-5)
    prompts = ["a photo of a cat.", "the number"]
    from open_clip import SimpleTokenizer, tokenize  # slow import

    encode = network.text_encoder(ARCHITECTURE, clip_weights(_reader(theirs), "base"), SimpleTokenizer(), "base", CPU)
    torch.testing.assert_close(encode(prompts), text_features(tokenize(prompts), theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_texts_are_encoded_without_padding(dtype: torch.dtype, tolerance: float) -> None:
    import open_clip

    clip = open_clip.CLIP(**ARCHITECTURE | {"text_cfg": {"width": 32, "heads": 2, "layers": 3}}).to(dtype).eval()
    tokens = open_clip.tokenize(["a", "a photo of the number seven, with more words.", "word " * 100])
    lengths = []
    clip.transformer.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    for batch in (tokens[:1], tokens[:2], tokens):
        short = network.text_features(clip, batch)
        torch.testing.assert_close(short, clip.encode_text(batch), atol=tolerance, rtol=tolerance)
    assert lengths == [3, 77, 13, 77, 77, 77]


def test_texts_without_a_causal_mask_keep_their_padding() -> None:
    import open_clip

    text = {"width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    clip = open_clip.CLIP(**ARCHITECTURE | {"text_cfg": text}).eval()
    tokens = open_clip.tokenize(["a"])
    assert torch.equal(network.text_features(clip, tokens), clip.encode_text(tokens))


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_finetuned_vision_models_take_the_projection_from_the_base(theirs: Weights, base: Weights, prefix: str) -> None:
    tuned = moved(vision(0), 7)
    file = {name.replace("vision_model.", prefix): weight for name, weight in tuned.items()}
    file[f"{prefix}embeddings.position_ids"] = torch.arange(17)[None]
    ours = clip_weights(_reader(file), "tuned", base)
    assert set(ours) == set(base)
    images = torch.randn(2, 3, 32, 32)
    features = network.image_encoder(ARCHITECTURE, ours, "tuned")(images)
    expected = image_features(images, tuned | {"visual_projection.weight": theirs["visual_projection.weight"]})
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert features.shape == (2, EMBEDDING)


@pytest.mark.parametrize("prefix", ["model.visual.", "visual.", ""])
def test_open_clip_names(base: Weights, prefix: str) -> None:
    file = {name.replace("visual.", prefix): weight for name, weight in base.items()}
    ours = clip_weights(_reader(file), "file", base)
    assert all(torch.equal(ours[name], base[name]) for name in base)


def test_the_digest_follows_file_and_projection(tmp_path: Path, base: Weights) -> None:
    save_file(vision(1), tmp_path / "a.safetensors")
    from tsv_exp.checkpoints.readers import read

    other = base | {"visual.proj": base["visual.proj"] + 1}
    one, same, two = (clip_weights(read(tmp_path / "a.safetensors"), "a", b).digest for b in (base, base, other))
    assert one == same != two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("vision_model.encoder.layers.1.self_attn.k_proj.bias"), r"lacks .*k_proj\.bias"),
        (lambda w: [w.pop(name) for name in list(w) if ".layers.1." in name], "lacks visual.transformer.resblocks.1"),
        (
            lambda w: w.update({n.replace("s.1", "s.2"): w[n] for n in list(w) if ".layers.1." in n}),
            "has an unexpected",
        ),
        (lambda w: w.update({"vision_model.post_layernorm.bias": torch.zeros(5)}), r"\(5,\)"),
        (lambda w: (w.clear(), w.update(fc=torch.zeros(2))), "expected the image encoder"),
    ],
)
def test_other_architectures_are_named(base: Weights, change: object, message: str) -> None:
    file = vision(0)
    change(file)
    with pytest.raises(UserError, match=f"^some/file: .*{message}"):
        clip_weights(_reader(file), "some/file", base)
