"""README.md, tsv_merge.json, metadata, and uploads to a hub on loopback."""

import hashlib
import json
import os
from pathlib import Path

import forked
import pytest
import torch
import yaml
from hub import Hub
from models import zoo
from safetensors import safe_open
from safetensors.torch import save_file

import tsv_exp
from tsv_exp import UserError
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, finetuned = zoo(2)
    save_file(base, "base.safetensors")
    for task, weights in finetuned.items():
        save_file(weights, f"{task}.safetensors")
    return ["base=base.safetensors", "models=[task0.safetensors, task1.safetensors]", "out=out"]


def front_matter(card):
    """The metadata and the text of a model card."""
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_and_the_json_say_where_a_merge_comes_from(words, tmp_path):
    run(options_of([*words, "rank_fraction=0.25", "alpha=0.5"]))
    metadata, text = front_matter((tmp_path / "out" / "README.md").read_text())
    assert metadata == {"base_model_relation": "merge", "tags": ["merge", "tsv_exp"]}  # local files are no hub ids
    told = json.loads((tmp_path / "out" / "tsv_merge.json").read_text())
    for name, file in (("base", "base"), ("model task0", "task0"), ("model task1", "task1")):
        digest = hashlib.sha256((tmp_path / f"{file}.safetensors").read_bytes()).hexdigest()
        assert told["inputs"][name] == {"source": f"{file}.safetensors", "files": {f"{file}.safetensors": digest}}
        assert digest in text
    typed = f"{words[0]} '{words[1]}' {words[2]} rank_fraction=0.25 alpha=0.5"
    command = f"tsv-merge {typed}"
    assert told["command"] == command
    assert f"```bash\n{command}\n```" in text
    assert told["tsv_exp"] == tsv_exp.__version__
    assert told["rules"] == [{"layers": "*", "method": "tsv_m", "alpha": 0.5, "parameters": {"rank_fraction": 0.25}}]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        short = json.loads(file.metadata()["tsv_exp"])
    assert short["rules"] == told["rules"]
    assert short["models"] == {"task0": "task0.safetensors", "task1": "task1.safetensors"}


def test_options_of_a_configuration_file_are_in_the_card_and_the_json(words, tmp_path):
    Path("recipe.yaml").write_text("weights: {task0: 0.6}\nkeep: ['norm.*']\nignore: ['norm.*']\nmethod: ties\n")
    run(options_of(["recipe.yaml", *words]))
    told = json.loads((tmp_path / "out" / "tsv_merge.json").read_text())
    assert told["weights"] == {"task0": 0.6}
    assert told["settings"] == {
        "svd": "auto",
        "exclude": None,
        "stacks": None,
        "vocabulary": None,
        "tokenizer": None,
        "keep": ["norm.*"],
        "ignore": ["norm.*"],
    }
    line = "\n\nOther options: `weights={'task0': 0.6}`, `keep=['norm.*']`, `ignore=['norm.*']`\n\n| input |"
    assert line in (tmp_path / "out" / "README.md").read_text()


def test_a_path_with_a_bar_stays_in_its_cell(words, tmp_path):
    Path("task1.safetensors").rename("a|b.safetensors")
    run(options_of([words[0], "models=[task0.safetensors, 'a|b.safetensors']", "out=out"]))
    card = (tmp_path / "out" / "README.md").read_text()
    assert r"| `a\|b.safetensors` | a\|b.safetensors | `" in card


def test_a_merge_of_a_merge_has_its_own_provenance(words, tmp_path):
    run(options_of(words))
    run(options_of([*words[:1], "models=[out, task0.safetensors]", "out=again"]))
    told = json.loads((tmp_path / "again" / "tsv_merge.json").read_text())
    assert told["inputs"]["model out"]["source"] == "out"


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path / "hub").running() as server:
        yield server


def pushed(hub, words, **environment):
    """tsv-merge in a process of its own, since the hub's address is read when its library is imported."""
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", "HF_HOME": os.path.abspath("home")} | environment
    return forked.command("merge", *words, "push=me/merged", cwd=Path.cwd(), env=os.environ | settings)


def test_a_finished_folder_is_uploaded_without_its_recipe(hub, words, tmp_path):
    done = pushed(hub, words)
    assert done.returncode == 0, done.stderr
    [(repository, how)] = hub.created
    assert (repository, how["visibility"]) == ("me/merged", "private")
    uploaded = tmp_path / "hub" / "models" / "me" / "merged"
    files = {file.relative_to(uploaded).as_posix() for file in uploaded.rglob("*") if file.is_file()}
    assert files == {"README.md", "model.safetensors", "tsv_merge.json"}
    for name in files:
        assert (uploaded / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (tmp_path / "out" / ".gitignore").read_text() == ".tsv-merge/\n"  # other uploads leave it out too
    assert f"uploaded to {hub.url}/me/merged" in done.stderr


@pytest.mark.parametrize(("fault", "message"), [("401", "log in"), ("500", "answered 500")])
def test_a_hub_that_refuses_is_known_before_anything_is_merged(hub, words, tmp_path, fault, message):
    hub.faults = {"whoami-v2": fault}
    done = pushed(hub, words, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert done.returncode == 1
    assert "push=me/merged" in done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_none_is_refused(words):
    with pytest.raises(UserError, match="push=merged: give the name of a repository"):
        run(options_of([*words, "push=merged"]))


def test_nobody_logged_in_is_known_before_anything_is_merged(hub, words, tmp_path):
    done = pushed(hub, words, HF_TOKEN="")
    assert done.returncode == 1
    assert "push=me/merged: log in first" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_card_of_an_adapter_names_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "owner/base"}
    for name in "ab":
        (tmp_path / name).mkdir()
        factors = {"q.lora_A.weight": torch.randn(2, 8), "q.lora_B.weight": torch.randn(6, 2)}
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    run(options_of(["models=[a, b]", "out=out", "form=lora"]))
    metadata, _ = front_matter((tmp_path / "out" / "README.md").read_text())
    assert metadata["base_model"] == ["owner/base"]
    assert metadata["base_model_relation"] == "adapter"
    assert metadata["library_name"] == "peft"
