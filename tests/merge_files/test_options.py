from pathlib import Path

import pytest

from tsv_exp import UserError
from tsv_exp.merge_files.options.options import parse

WORDS = ["base=b", "models=[x/a.pt, y/a.pt]", "out=o"]


def test_what_is_not_given_is_the_default():
    assert parse([*WORDS, "alpha=null", "exclude=null", "dtype=null", "tokenizer=base"]) == parse(WORDS)
    assert parse(WORDS).models == {"x-a": "x/a.pt", "y-a": "y/a.pt"}


def test_other_words_are_parameters_of_the_method():
    assert parse([*WORDS, "density=0.2", "lambda_=[1, 2]"]).params == {"density": 0.2, "lambda_": [1, 2]}


@pytest.mark.parametrize(
    ("word", "patterns"),
    [
        ("exclude='*emb*'", ["*emb*"]),
        ("exclude=head", ["head"]),
        ("exclude=['*emb*', head]", ["*emb*", "head"]),
        ("exclude=[]", []),
    ],
)
def test_patterns(word, patterns):
    assert parse([*WORDS, word]).exclude == patterns


def test_numbers_are_names_of_tasks():
    options = parse(["base=b", "models={1: a, 2: b}", "out=o", "task=1"])
    assert options.task in options.models


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method", "name=value"),
        ("base=", "base is missing"),
        ("models=[c]", "models is given twice; give all of them as one list"),
        ("dtype=int8", "dtype=int8"),
        ("dtype=[float16]", "dtype="),
        ("alpha=much", "alpha=much"),
        ("alpha=.nan", "alpha=nan"),
        ("alpha=inf", "alpha=inf"),
        ("alpha=.inf", "alpha=inf"),
        ("alpha=true", "alpha=True"),
        ("shard_mb=0", "shard_mb=0"),
        ("shard_mb=-1", "shard_mb=-1"),
        ("shard_mb=.nan", "shard_mb=nan"),
        ("exclude=3", "exclude=3"),
        ("exclude=[3]", "exclude="),
        ("exclude=*emb*", r"cannot read exclude=\*emb\*.*quote"),
        ("keep=3", "keep=3"),
        ("exclude=[*emb*]", "cannot read exclude=.*quote"),
        ("models={a: b", "cannot read models=.*quote"),
        ("models={a: b, a: c}", "'a' is there twice"),
        ("rank=3", "give form=lora too"),
        ("layers.'*mlp*'.alpha=2", "give all rules as one value"),
        ("layers={'*': {rank: 3}}", "give form=lora too"),
        ("out=~nobody-at-all/x", "out=~nobody-at-all/x"),
        ("out=a\udcff", "not valid UTF-8; rename"),
    ],
)
def test_what_does_not_fit_is_one_line(word, message):
    with pytest.raises(UserError, match=message) as error:
        parse([*WORDS, word])
    assert "\n" not in str(error.value)


def test_out_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert parse([*WORDS, "out=~/merged"]).out == Path("/somewhere/merged")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base=b", "model=a", "out=o"], r"models is missing \(model= is no option\)"),
        (["Base=b", "models=a", "out=o"], r"base is missing \(Base= is no option\)"),
        (["base=b", "models=a,c", "out=o"], r"models=a,c: there is no such path; give several in .*'models=\[a,c\]'"),
    ],
)
def test_words_that_look_right_are_told_the_right_ones(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


def test_a_path_with_a_comma(tmp_path):
    (tmp_path / "a,c").mkdir()
    assert parse(["base=b", f"models={tmp_path}/a,c", "out=o"]).models == {"a,c": f"{tmp_path}/a,c"}
