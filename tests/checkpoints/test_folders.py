"""Which file of a folder holds its weights, and what is said where none does."""

import pytest

from tsv_exp import UserError
from tsv_exp.checkpoints.folders import existing_weights_file, weights_file


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def test_plain_names_come_before_variants(tmp_path):
    assert weights_file(tmp_path) is None
    assert weights_file(folder(tmp_path, "model.fp16.safetensors")).name == "model.fp16.safetensors"
    assert weights_file(folder(tmp_path, "model.safetensors")).name == "model.safetensors"


def test_several_variants_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"several variants .* model.fp16.safetensors and model.non_ema.safetensors"):
        weights_file(folder(tmp_path, "model.fp16.safetensors", "model.non_ema.safetensors"))


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(UserError, match=r"model.safetensors is a link to a file that is missing; fetch it again"):
        existing_weights_file(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model-00001-of-00002.safetensors"], "is a shard, and its index"),
        (["consolidated.safetensors"], "give the path of one file, such as .*consolidated.safetensors"),
        (["merged.json", "merged-00001-of-00002.safetensors"], "a model per task; merge again with task=NAME"),
        (["model.gguf"], "model.gguf has an unsupported format"),
        (
            ["checkpoint-5/model.safetensors", "checkpoint-9/model.safetensors"],
            r"checkpoint-5 \(of 2\) holds one; give ",
        ),
        (["math/adapter_model.safetensors"], "math holds one"),
        (["config.json"], "expected model.safetensors"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "accelerate merge-weights .*pytorch_model_fsdp_0 OUT"),
        (["zero_to_fp32.py", "global_step5/mp_rank_00_model_states.pt"], "DeepSpeed; run `python .*zero_to_fp32.py"),
    ],
)
def test_a_folder_without_weights_is_told_the_remedy(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        existing_weights_file(folder(tmp_path, *names))
