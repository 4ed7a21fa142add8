"""Every version constant stands for numbers: whoever changes those raises the constant."""

import json
from pathlib import Path

import golden
import pytest

from tsv_exp import versions

RECORDED = json.loads(golden.RECORD.read_text(encoding="utf-8"))
TOLERANCE = 1e-4  # relative; float32 sums differ between machines, changes of the numerics are larger


def test_every_constant_has_golden_values() -> None:
    assert set(golden.PARTS) == set(RECORDED) == set(versions.ALL)


@pytest.mark.parametrize("part", golden.PARTS)
def test_numbers_change_with_their_constant_only(part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    known = RECORDED[part]
    found = golden.PARTS[part]()
    remedy = f"raise {part} in tsv_exp/versions.py if known numbers changed; record: python tests/support/golden.py"
    same = found.keys() == known["values"].keys() and found == pytest.approx(known["values"], rel=TOLERANCE, abs=1e-6)
    assert same, f"the numbers of {part} changed: {remedy}\nfound {found}\nknown {known['values']}"
    assert versions.ALL[part] == known["version"], f"{part} is not the recorded one: {remedy}"


def test_a_changed_number_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RECORDED["METHODS"]["values"]
    assert {**values, "tsv_m": values["tsv_m"] * (1 + 10 * TOLERANCE)} != pytest.approx(values, rel=TOLERANCE, abs=1e-6)
