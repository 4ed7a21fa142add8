"""Which examples were right: what is written is read back, and anything else is refused."""

from pathlib import Path

import numpy as np
import pytest

from tsv_exp.storage.correct_examples import FILE, read_correct, write_correct


def test_every_bit_comes_back_and_takes_a_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    correct = {
        name: generator.random(count) < 0.7 for name, count in {"file": 1, "a/b": 8, "Ω": 9, "big": 40_000}.items()
    }
    write_correct(tmp_path, correct)
    found = read_correct(tmp_path)
    assert list(found) == list(correct)
    assert all(np.array_equal(found[name], correct[name]) and found[name].dtype == bool for name in correct)
    assert (tmp_path / FILE).stat().st_size < 40_000 / 8 + 1500


@pytest.mark.parametrize(("counts", "bits"), [([9], [1]), ([9, 9], [1, 2, 3]), ([1], [1, 2]), ([8, 8], [1, 2])])
def test_a_file_that_does_not_add_up_is_refused(tmp_path: Path, counts: list[int], bits: list[int]) -> None:
    np.savez(tmp_path / FILE, tasks=np.array(["a"]), counts=np.array(counts), bits=np.array(bits, np.uint8))
    with pytest.raises(ValueError):
        read_correct(tmp_path)


def test_no_code_is_read_from_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / FILE, tasks=np.array([{}], dtype=object), counts=np.array([1]), bits=np.array([1], np.uint8))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_correct(tmp_path)
