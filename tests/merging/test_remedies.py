"""Patterns that error messages offer."""

import pytest

from tsv_exp.merging.inputs.remedies import option

LAYERS = range(4)


@pytest.mark.parametrize(
    ("tensors", "others", "patterns"),
    [
        (["a.b", "c[1].d"], [], "'a.b', 'c[[]1].d'"),  # few names stay as they are
        (["head.0.w", "head.1.w", "head.2.w", "head.3.w"], ["body.w"], "'head.*'"),
        ([f"h.11.{part}.w" for part in "abcd"], ["h.1.a.w", "h.11"], "'h.11.*'"),
        ([f"h.{i}.rope.freq" for i in LAYERS], ["h.0.w"], "'*.rope.freq'"),
        ([f"h.{i}.a.fc.base.w" for i in LAYERS], ["h.0.b.fc.base.w"], "'h.*.a.fc.base.w'"),
        ([f"h.{i}.{part}.bias" for i in LAYERS for part in "abcd"], ["h.0.a.w"], "'*.bias'"),
        ([f"[{i}].w" for i in LAYERS], ["b.w"], "'[[]0].w', '[[]1].w', '[[]2].w', ..."),
        (
            ["ln.w", "ln.b", "scale", "pos", "text.0.w", "token.w"],
            ["visual.w"],
            "'ln.*', 'scale', 'pos', 'text.*', 'token.*'",
        ),
        (["q", "r", "s", "t"], [], "'q', 'r', 's', ..."),
    ],
)
def test_patterns_match_all_the_tensors_and_no_other(tensors, others, patterns):
    assert option("ignore", tensors, others, "leaves it out") == f'"ignore=[{patterns}]" leaves it out'
