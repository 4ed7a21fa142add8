import pytest
import textbook
import torch
from models import zoo

from tsv_exp import interference
from tsv_exp.analyze.interference import layer_interference


def test_interference_matches_the_textbook():
    base, finetuned = zoo(4)
    taus = textbook.task_vectors(base, finetuned)
    measured = interference(base, finetuned)
    assert set(measured) == {"tall.weight", "wide.weight", "square.weight", "thin.weight", "frozen.weight"}
    for name in ("tall.weight", "wide.weight", "square.weight"):
        assert measured[name] == pytest.approx(textbook.interference(taus, name), rel=1e-9)
    assert measured["frozen.weight"] == 0
    assert measured["thin.weight"] == 0, "no component is kept"


def test_orthogonal_tasks_do_not_interfere():
    eye = torch.eye(8, dtype=torch.float64)
    assert layer_interference(torch.stack([eye[:, :4] @ eye[:4], eye[:, 4:] @ eye[4:]])) < 1e-12
