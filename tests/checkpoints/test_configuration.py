import json

import pytest

from tsv_exp import UserError
from tsv_exp.checkpoints.configuration import Configuration


@pytest.fixture
def folder(tmp_path):
    """A sentence-transformers folder, as its library writes it, with traces of training and other models beside it."""
    base = tmp_path / "base"
    config = {"dtype": "float32", "model_type": "x", "text_config": {"torch_dtype": "float16", "vocab_size": 9}}
    files = {
        "config.json": json.dumps(config),
        "modules.json": "[]",
        "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true, "dtype": "float32"}',
        "additional_chat_templates/tool_use.jinja": "{{ x }}",
        "chat_template.jinja": "{{ y }}",
        "modeling_x.py": "",
        "model.safetensors.index.json": "{}",
        "adapter_config.json": "{}",
        "checkpoint-500/config.json": "{}",
        ".cache/huggingface/x.json": "{}",
        "another/model.safetensors": "weights",  # a model of its own
        "another/config.json": "{}",
        "another/1_Pooling/config.json": "{}",
        "lora/adapter_model.safetensors": "weights",
        "lora/tokenizer_config.json": "{}",
        "model.safetensors": "weights",
        "LICENSE": "",
        "notes.pdf": "",
    }
    for name, content in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(content)
    return base


COPIED = {
    *("config.json", "modules.json", "1_Pooling/config.json", "chat_template.jinja", "modeling_x.py"),
    *("additional_chat_templates/tool_use.jinja", "LICENSE"),
}


def written(out):
    return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}


def test_files_of_subfolders_too(folder, tmp_path):
    Configuration(folder).write(tmp_path / "out")
    assert written(tmp_path / "out") == COPIED
    for name in COPIED:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_a_result_inside_the_base(folder):
    Configuration(folder).write(folder / "merged")
    Configuration(folder).write(folder / "merged")
    assert written(folder / "merged") == COPIED


def test_what_is_changed(folder, tmp_path):
    replaced = {"tokenizer.json": b"{}"}
    values = {"vocab_size": 12, "other": 1}
    Configuration(folder, "bfloat16", values, replaced, folder / "1_Pooling").write(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {
        "dtype": "bfloat16",
        "model_type": "x",
        "text_config": {"torch_dtype": "bfloat16", "vocab_size": 12},
    }
    other = {"vocab_size": 9, "qformer_config": {"vocab_size": 5}}  # a vocabulary of its own
    (folder / "config.json").write_text(json.dumps(other))
    Configuration(folder, values=values).write(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config == other | {"vocab_size": 12}
    assert written(tmp_path / "out") == {name for name in COPIED if not name.endswith(".jinja")} | {"tokenizer.json"}
    assert "float32" in (tmp_path / "out" / "1_Pooling" / "config.json").read_text()


def test_a_damaged_config_is_copied_or_named(folder, tmp_path):
    (folder / "config.json").write_text("{")
    Configuration(folder).write(tmp_path / "out")
    with pytest.raises(UserError, match=r"config.json: .*correct it"):
        Configuration(folder, "bfloat16").write(tmp_path / "out")
