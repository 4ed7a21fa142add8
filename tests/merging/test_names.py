import pytest

from tsv_exp.merging.inputs.names import bare, match_names

BASE = ["transformer.wte.weight", "transformer.h.0.attn.weight", "transformer.h.1.attn.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("h.0.", "h.0._fsdp_wrapped_module.").replace("wte", "_fsdp_wrapped_module.wte"),
        lambda name: name.replace("h.1.", "h.1._checkpoint_wrapped_module."),
        lambda name: f"base_model.model.{name}",
        lambda name: f"model.{name}",
        lambda name: f"net.model.{name}",
        lambda name: name.removeprefix("transformer."),
    ],
)
def test_what_wrappers_and_heads_add_to_names(wrapped):
    own = [wrapped(name) for name in BASE]
    pairs = dict(zip(BASE, own, strict=True))
    assert match_names(BASE, own) == pairs
    assert match_names(own, BASE) == {name: base for base, name in pairs.items()}


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod.base_model.model.", "_fsdp_wrapped_module.module.", "module._orig_mod.base_model.model."]
)
def test_wrappers_around_wrappers(wrapper):
    assert bare(f"{wrapper}h.0._orig_mod.module.weight") == "h.0.module.weight"


def test_a_part_of_the_names():
    assert match_names(BASE, ["base_model.model.h.1.attn.weight"]) == {BASE[2]: "base_model.model.h.1.attn.weight"}
    assert match_names(BASE, [*BASE, "score.weight"]) == {name: name for name in BASE}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (["e.LayerNorm.gamma", "e.LayerNorm.beta", "e.weight"], ["e.LayerNorm.weight", "e.LayerNorm.bias", "e.weight"]),
        (["conv.weight_g", "conv.weight_v"], [f"conv.parametrizations.weight.original{i}" for i in (0, 1)]),
        (
            ["language_model.model.norm.weight", "language_model.lm_head.weight", "vision_tower.a.weight"],
            ["model.language_model.norm.weight", "lm_head.weight", "model.vision_tower.a.weight"],
        ),
    ],
)
def test_names_of_other_versions_of_the_libraries(older, newer):
    assert match_names(older, newer) == dict(zip(older, newer, strict=True))
    assert match_names(newer, older) == dict(zip(newer, older, strict=True))


def test_names_that_do_not_belong_together():
    assert match_names(["encoder.0.weight", "encoder.1.weight"], ["decoder.0.weight", "decoder.1.weight"]) == {}
    both = ["module.weight", "weight"]
    assert match_names(both, ["weight"]) == {"weight": "weight"}
    assert match_names(["weight", "bias"], both) == {"weight": "weight"}


def test_one_of_two_towers_named_as_if_it_were_alone():
    """A CLIP, and its image encoder, whose blocks have the names of the text encoder's."""
    tower = ["transformer.resblocks.0.mlp.weight", "transformer.resblocks.1.mlp.weight", "ln_post.weight"]
    base = [f"visual.{name}" for name in tower] + [*tower[:2], "token_embedding.weight"]
    assert match_names(base, tower) == {f"visual.{name}": name for name in tower}
    short = ["layers.0.weight", "final.weight"]
    base = [f"vision.{name}" for name in ["layers.0.weight", "layers.1.weight", "patches.weight"]]
    base += [f"text.{name}" for name in short]
    assert match_names(base, short) == {f"text.{name}": name for name in short}  # most names are of the other tower
