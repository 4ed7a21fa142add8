"""JSON of others."""

import pytest

from tsv_exp.storage.json_files import read_json, read_object, values_of


@pytest.mark.parametrize("depth", [200, 900, 100_000])
@pytest.mark.parametrize(("start", "end"), [('{"a": ', "}"), ("[", "]")])
def test_content_that_is_nested_too_deeply(tmp_path, depth, start, end):
    (tmp_path / "deep.json").write_text(start * depth + "1" + end * depth)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")


def test_content_is_read(tmp_path):
    (tmp_path / "some.json").write_text('{"a": [1, {"b": [[]]}]}')
    assert read_object(tmp_path / "some.json") == {"a": [1, {"b": [[]]}]}


def test_values_of_a_key_at_any_depth():
    content = {"a": {"b": {"size": 3}, "size": [2]}, "size": 1, "c": {"d": [{"size": 4}]}}
    assert values_of(content, "size") == [1, [2], 3]
    assert values_of([content], "size") == []
