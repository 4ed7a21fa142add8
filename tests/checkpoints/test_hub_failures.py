"""What is said when the hub cannot be reached."""

import re

import pytest

from tsv_exp import UserError
from tsv_exp.checkpoints.hub.failures import failures


@pytest.mark.parametrize(
    ("upload", "offline", "message"),
    [
        (
            False,
            False,
            r"x: \S+ cannot be reached .* local copy; try again \(partial files remain\), or give a local copy",
        ),
        (True, False, r"x: \S+ cannot be reached or broke off; try again"),
        (False, True, "x: HF_HUB_OFFLINE is set, and there is no full local copy; unset it, or give a local copy"),
        (True, True, "x: HF_HUB_OFFLINE is set; unset it"),
    ],
)
def test_no_connection(monkeypatch, upload, offline, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError) as error, failures("x", upload=upload):
        raise ConnectionError
    assert re.fullmatch(message, str(error.value))
