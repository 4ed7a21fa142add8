import gc
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tsv_exp.errors import UserError
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_during_an_import_is_raised_after_it(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    kept = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def library(_: str) -> SimpleNamespace:
        try:
            signal.raise_signal(number)
            signal.raise_signal(number)
        except KeyboardInterrupt:
            happened.append("lost in the library")
        happened.append("imported")
        return SimpleNamespace()

    monkeypatch.setattr(imports, "import_module", library)
    try:
        with pytest.raises(KeyboardInterrupt):
            imports.import_late("no.such.module")
    finally:
        gc.unfreeze()
        signal.signal(signal.SIGTERM, kept)
    assert happened == ["imported"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "error", [ImportError("libtorch_cpu.so: failed to map segment"), MemoryError(), OSError(24, "")]
)
def test_libraries_that_cannot_be_loaded_are_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def library(_: str) -> None:
        raise error

    monkeypatch.setattr(imports, "import_module", library)
    with pytest.raises(UserError, match=r"^its libraries cannot be loaded \(.+\); allow more memory and open files"):
        imports.import_frozen("no.such.module")


@pytest.mark.parametrize("loaded", [True, False])
def test_everything_is_collected_at_exit_where_triton_reports_what_is_left(
    loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    gc.freeze()
    imports._collect_at_exit()
    assert (gc.get_freeze_count() == 0) is loaded
    gc.unfreeze()
