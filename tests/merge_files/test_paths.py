from pathlib import Path

import pytest

from tsv_exp import UserError
from tsv_exp.commands.app.guard import text_paths
from tsv_exp.merge_files.options.options import parse
from tsv_exp.merge_files.options.paths import named, paths


@pytest.mark.parametrize("path", ["2024_01", "1e3", "no", "null_", "run #2", "0x10", "1:30", "~", "a: b", "*x", "true"])
def test_what_is_a_path_is_text(path):
    options = parse([f"base={path}", f"models=[{path},x]", f"out={path}"])
    assert (options.base, options.out) == (path, Path(path).expanduser())
    assert list(options.models.values()) == [path, "x"]
    assert parse(["base=b", f"models={{t: {path}}}", "out=o"]).models == {"t": path}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a.pt", ["a.pt"]),
        ("[a.pt, b.pt]", ["a.pt", "b.pt"]),
        ("[]", []),
        ("", []),
        ("['a, b', \"c]\", it's]", ["a, b", "c]", "it's"]),
        ("{cars: /x/1, no: 2024_01}", {"cars": "/x/1", "no": "2024_01"}),
        ("{'a: b': 'c, d'}", {"a: b": "c, d"}),
    ],
)
def test_lists_and_mappings(value, found):
    assert paths(value) == found


@pytest.mark.parametrize("value", ["[a", "{a: b", "{a}", "{a: }", "['a, b]"])
def test_what_is_not_closed(value):
    with pytest.raises(UserError, match=r"cannot read .*quote"):
        paths(value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["Mistral-7B-v0.1", "Mistral-7B-v0.2"], ["Mistral-7B-v0.1", "Mistral-7B-v0.2"]),
        (["owner/Qwen2.5-7B", "owner/Qwen2.5-7B-Math"], ["Qwen2.5-7B", "Qwen2.5-7B-Math"]),
        (["lr0.1/m.pt", "lr0.01/m.pt"], ["lr0.1-m", "lr0.01-m"]),
        (["m.pt", "m.safetensors"], ["m.pt", "m.safetensors"]),
        (["a/model.safetensors.index.json", "b/model.safetensors.index.json"], ["a-model", "b-model"]),
        (["x.ckpt"], ["x"]),
        (["/a/b.bin", "/c/b.bin"], ["a-b", "c-b"]),
    ],
)
def test_names_tell_models_apart(given, names):
    assert named(given) == dict(zip(names, given, strict=True))


def test_the_folder_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "model-1.5").mkdir()
    monkeypatch.chdir(tmp_path / "model-1.5")
    assert named(["."]) == {"model-1.5": "."}
    assert named(["..", "."]) == {tmp_path.name: "..", "model-1.5": "."}


def test_the_same_path_twice():
    with pytest.raises(UserError, match="given twice"):
        named(["a.pt", "a.pt"])


@pytest.mark.parametrize(
    ("typed", "hydra"),
    [
        ("paths.outputs=2024_01", "paths.outputs='2024_01'"),
        ("++paths.cache=run #2", "++paths.cache='run #2'"),
        ("paths.cache=null", "paths.cache=null"),
        ("paths.outputs=${x}/1", "paths.outputs=${x}/1"),
        ("model.base=it's", r"model.base='it\'s'"),
        ("paths.outputs=a,b", "paths.outputs=a,b"),
        ("models=[no,1e3]", "models=['no','1e3']"),
        ("models={a: 1e3}", "models='{a: 1e3}'"),
        ("tasks=8", "tasks=8"),
    ],
)
def test_paths_of_the_other_commands(typed, hydra):
    assert text_paths(typed) == hydra


@pytest.mark.parametrize("path", ["2024_01", "1e3", "run #2", "it's", "no"])
def test_hydra_reads_them_as_text(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [
        text_paths(word) for word in (f"paths.outputs={path}", f"models=[{path},b]", f"models={{'a b:ü': {path}}}")
    ]
    outputs, models, tasks = OverridesParser.create().parse_overrides(words)
    assert paths(tasks.value()) == {"a b:ü": path}
    assert outputs.value() == path
    assert [str(value) for value in models.value()] == [path, "b"]
