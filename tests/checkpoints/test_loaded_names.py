"""Names that transformers gives weights in memory."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.loaded_names import adaptable_weights, loaded_names
from tsv_exp.checkpoints.readers import read

pytest.importorskip("transformers")


def test_code_in_the_folder_of_a_model_does_not_run(tmp_path, monkeypatch):
    from tsv_exp.models.text.network import configuration, tokenizer

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question at the terminal"))
    own = {"AutoConfig": "configuration_own.Own", "AutoModel": "configuration_own.Own", "AutoTokenizer": ["x.Y", None]}
    kinds = {"model_type": "own", "architectures": ["Own"], "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(kinds))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": own}))
    (tmp_path / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert loaded_names(read(tmp_path)) == {}
    assert adaptable_weights(read(tmp_path)) is None
    for opened in (configuration, tokenizer):
        with pytest.raises(UserError, match="custom code"):
            opened(tmp_path, "here")
    assert not (tmp_path / "ran").exists()
