from pathlib import Path

import pytest

from tsv_exp.storage.named import module_digests


def test_code_counts_and_files_of_a_similar_name_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_method.py").write_text("def merge(): ...")
    for name in ("weights", "names"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
    (tmp_path / "weights.safetensors").touch()
    first, second = module_digests({"_target_": "my_method.merge", "base": "weights.safetensors", "one": "names.two"})
    assert first != second
    assert module_digests(["weights.safetensors", "tsv_exp.methods.ties", "a text.", "plain"]) == []
    assert module_digests(["my_method.merge"])[0] in (first, second)
