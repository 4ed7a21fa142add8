"""Accuracies are measured once, also by processes that run side by side."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tsv_exp.evaluation import scores
from tsv_exp.evaluation.scores import Scores

WORKER = """
import sys, time
import numpy as np
from pathlib import Path
from tsv_exp.evaluation.scores import Scores
scores, measured = Scores(), []
for key in map("{:02x}".format, range(20)):
    if scores.get(key) is None:
        time.sleep(0.01)
        measured.append(key)
        scores.put(key, 0.5, np.array([True, False]))
print(" ".join(measured))
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


def test_what_is_known_stays_known() -> None:
    assert Scores().get("aa") is None
    Scores().put("aa", 0.25, np.array([True, False, False, False]))
    assert Scores().get("aa") == 0.25


def test_a_metric_may_be_negative_and_have_no_right_examples() -> None:
    Scores().put("aa", -0.5)
    assert Scores().get("aa") == -0.5
    assert Scores().correct("aa", 3) is None


def test_predictions_stay_known_too() -> None:
    assert Scores().predictions("aa") is None
    Scores().put_predictions("aa", np.array([3, 0, 70_000]))
    found = Scores().predictions("aa")
    assert found is not None
    assert found.tolist() == [3, 0, 70_000]


def test_a_read_only_cache_of_an_earlier_version_has_no_predictions(tmp_path: Path, monkeypatch) -> None:
    Scores().put("aa", 0.25)
    with closing(sqlite3.connect(tmp_path / "scores.sqlite")) as file:
        file.execute("DROP TABLE predictions")
        file.commit()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    reading = Scores()
    assert reading.predictions("aa") is None
    reading.put_predictions("aa", np.array([1]))
    assert reading.get("aa") == 0.25


def test_a_claim_that_came_to_nothing_ends_with_the_next_question() -> None:
    assert Scores().get("aa") is None  # and then the run fails
    assert Scores().get("aa") is None
    assert Scores().get("ab") is None


def test_processes_side_by_side_measure_nothing_twice() -> None:
    pipe = subprocess.PIPE
    workers = [subprocess.Popen([sys.executable, "-c", WORKER], stdout=pipe, text=True) for _ in range(3)]
    measured = [key for worker in workers for key in worker.communicate(timeout=100)[0].split()]
    assert all(worker.returncode == 0 for worker in workers)
    assert sorted(measured) == [f"{number:02x}" for number in range(20)]


def test_a_killed_process_leaves_nothing_locked() -> None:
    code = "from tsv_exp.evaluation.scores import Scores; Scores().get('aa'); import os; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert Scores().get("aa") is None


def test_a_suspended_process_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from tsv_exp.evaluation.scores import Scores; Scores().get('aa'); print('claimed', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        monkeypatch.setattr(scores, "PATIENCE", 0.1)
        assert Scores().get("aa") is None
        Scores().put("aa", 0.5, np.array([True, False]))
        assert Scores().get("aa") == 0.5
        other.communicate("\n")


def test_a_read_only_cache_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scores().put("aa", 0.25, np.array([True, False, False, False]))
    before = (tmp_path / "scores.sqlite").read_bytes()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    reading = Scores()
    assert reading.get("aa") == 0.25
    assert reading.get("bb") is None
    reading.put("bb", 1.0, np.array([True]))
    assert reading.get("bb") is None
    assert (tmp_path / "scores.sqlite").read_bytes() == before
