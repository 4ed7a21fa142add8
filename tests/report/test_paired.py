"""Paired differences against an independent computation, and the tables and errors of the command."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic import results, write_run

from tsv_exp.commands.report import main
from tsv_exp.errors import UserError
from tsv_exp.report.results.paired import compare
from tsv_exp.report.results.runs import read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.paired import paired_sheets
from tsv_exp.report.tables.sheets import Sheet
from tsv_exp.storage.correct_examples import FILE, write_correct

Correct = dict[str, NDArray[np.bool_]]
COUNTS = {"Digits": 40, "Clock": 25}


def drawn(seed: int, share: float = 0.7) -> Correct:
    generator = np.random.default_rng(seed)
    return {task: generator.random(count) < share for task, count in COUNTS.items()}


def run(folder: Path, method: str, correct: Correct | None, **changes: object) -> Path:
    accuracy = [float(right.mean()) for right in (correct or drawn(0)).values()]
    write_run(folder, results(method, accuracy, tasks=tuple(COUNTS), **changes))
    if correct is not None:
        write_correct(folder, correct)
    return folder


def binomial_p(better: int, worse: int) -> float:
    """Two-sided exact McNemar: the probability of a split at least as uneven, in whole numbers."""
    total = better + worse
    tail = sum(math.comb(total, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def test_one_seed_is_mcnemars_test_and_the_paired_error() -> None:
    one, other = drawn(1, 0.8), drawn(2, 0.6)
    found = compare([one], [other])
    means, variances, better, worse = [], [], 0, 0
    for task, count in COUNTS.items():
        only_one = sum(a and not b for a, b in zip(one[task], other[task], strict=True))
        only_other = sum(b and not a for a, b in zip(one[task], other[task], strict=True))
        mean = (only_one - only_other) / count
        variance = ((only_one + only_other) / count - mean**2) / (count - 1)
        assert (found.tasks[task].mean, found.tasks[task].error) == pytest.approx((mean, math.sqrt(variance)))
        means.append(mean)
        variances.append(variance)
        better, worse = better + only_one, worse + only_other
    assert found.average.mean == pytest.approx(sum(means) / 2)
    assert found.average.error == pytest.approx(math.sqrt(sum(variances)) / 2)
    assert (found.better, found.worse) == (better, worse)
    assert found.p == pytest.approx(binomial_p(better, worse))
    assert math.isnan(found.over_seeds)


def test_seeds_are_averaged_example_by_example() -> None:
    ones, others = [drawn(i) for i in (1, 2, 3)], [drawn(i) for i in (4, 5, 6)]
    found = compare(ones, others)
    for task, count in COUNTS.items():
        each = [
            sum(float(a[task][i]) - b[task][i] for a, b in zip(ones, others, strict=True)) / 3 for i in range(count)
        ]
        mean = sum(each) / count
        error = math.sqrt(sum((x - mean) ** 2 for x in each) / (count - 1) / count)
        assert (found.tasks[task].mean, found.tasks[task].error) == pytest.approx((mean, error))
    averages = [sum(a[task].mean() - b[task].mean() for task in COUNTS) / 2 for a, b in zip(ones, others, strict=True)]
    assert found.over_seeds == pytest.approx(np.std(averages, ddof=1) / math.sqrt(3))


def test_equals_do_not_differ() -> None:
    found = compare([drawn(1)], [drawn(1)])
    assert (found.average.mean, found.average.error, found.better, found.worse, found.p) == (0, 0, 0, 0, 1)


def sheets(folder: Path, reference: str = "tsv_m") -> list[Sheet]:
    return paired_sheets(build_groups(read_runs([folder])), reference)


def test_the_table_of_differences(tmp_path: Path) -> None:
    one, other = drawn(1, 0.8), drawn(2, 0.6)
    run(tmp_path / "0", "ties", one)
    run(tmp_path / "1", "tsv_m", other)
    run(tmp_path / "2", "iso_c", None)
    run(tmp_path / "3", "dare", drawn(5), seed=4)
    (sheet,) = sheets(tmp_path)
    assert sheet.headings == ("Digits", "Clock", "average", "better : worse", "p")
    ties, iso, dare = sheet.lines
    found = compare([one], [other])
    assert ties.entries[2].text == f"{100 * found.average.mean:+.2f} ± {100 * found.average.error:.2f}"
    assert ties.entries[3].text == f"{found.better} : {found.worse}"
    assert (iso.only_note, iso.note) == (True, f"{tmp_path / '2'} has no {FILE}")
    assert dare.note == "no seed in common with tsv_m"
    (back,) = [line for line in sheets(tmp_path, "ties")[0].lines if line.label == "tsv_m"]
    assert back.entries[2].text == f"−{100 * found.average.mean:.2f} ± {100 * found.average.error:.2f}"


def test_several_seeds_are_paired_by_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / f"a{seed}", "ties", drawn(seed), seed=seed, checkpoints={"family": "tiny"})
        run(tmp_path / f"b{seed}", "tsv_m", drawn(10 + seed), seed=seed, checkpoints={"family": "tiny"})
    (sheet,) = sheets(tmp_path)
    found = compare([drawn(0), drawn(1)], [drawn(10), drawn(11)])
    assert sheet.headings[-3:] == ("± over seeds", "better : worse", "p")
    assert sheet.lines[0].entries[-3].text == f"{100 * found.over_seeds:.2f}"
    assert "± over seeds" in sheet.legend


def test_a_file_that_does_not_fit_the_results_is_not_believed(tmp_path: Path) -> None:
    run(tmp_path / "0", "ties", drawn(1))
    run(tmp_path / "1", "tsv_m", drawn(2))
    write_correct(tmp_path / "0", drawn(3))
    (line,) = sheets(tmp_path)[0].lines
    assert "does not have the accuracy of Digits" in line.note
    (tmp_path / "0" / FILE).write_text("no archive")
    (line,) = sheets(tmp_path)[0].lines
    assert "cannot be read" in line.note


def test_what_cannot_be_the_reference(tmp_path: Path) -> None:
    run(tmp_path / "0", "ties", drawn(1), params={"density": 0.1})
    run(tmp_path / "1", "ties", drawn(2), params={"density": 0.2})
    run(tmp_path / "2", "tsv_m", None)
    with pytest.raises(
        UserError, match=r"--paired nope: .*choose from: ties \(density 0.1\), ties \(density 0.2\), tsv_m"
    ):
        sheets(tmp_path, "nope")
    with pytest.raises(UserError, match="several rows"):
        sheets(tmp_path, "ties")
    assert [line.label for line in sheets(tmp_path, "ties (density 0.2)")[0].lines] == ["ties (density 0.1)", "tsv_m"]
    with pytest.raises(UserError, match=f"has no {FILE}; run it again with resume=false"):
        sheets(tmp_path)


def test_the_command_makes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "0", "ties", drawn(1))
    run(tmp_path / "1", "tsv_m", drawn(2))
    assert main([str(tmp_path), "--paired", "tsv_m"]) == 0
    assert "differences to tsv_m" in capsys.readouterr().out
    assert "## tiny, 2 tasks: differences to tsv_m" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert main([str(tmp_path), "--paired", "emr"]) == 1
    assert capsys.readouterr().err.startswith("tsv-report: --paired emr: no finished row of that name")
