import gc
from types import SimpleNamespace

import pytest

from tsv_exp.runtime import imports


def test_imports_look_for_no_garbage_and_freeze_what_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(imports, "import_module", lambda name: looked.append(gc.isenabled()) or SimpleNamespace())
    imports.import_frozen("no.such.module")
    assert (looked, gc.isenabled()) == ([False], True)
    assert gc.get_freeze_count()
    gc.unfreeze()
    imports.import_frozen(
        "tsv_exp.runtime.imports"
    )  # it is there: garbage that has come up since must not be kept for ever
    assert not gc.get_freeze_count()
