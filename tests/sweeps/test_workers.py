import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsv_exp.sweeps import workers

TWO = "GPU-aa,GPU-bb"


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    monkeypatch.setattr(workers, "_held", [])


def claimed_elsewhere(number: int) -> subprocess.Popen[str]:
    """Another process that has claimed a GPU, says which, and keeps it until its input ends."""
    code = (
        "import os, sys; from tsv_exp.sweeps import workers; "
        f"workers.claim_gpu({number}); print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)


def test_jobs_take_different_gpus_and_share_when_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", TWO)
    with claimed_elsewhere(0) as first, claimed_elsewhere(2) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        assert {first.stdout.readline().strip(), second.stdout.readline().strip()} == {"GPU-aa", "GPU-bb"}
        workers.claim_gpu(3)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
        assert workers._held == []
        for process in (first, second):
            process.communicate("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", TWO)
    workers.claim_gpu(0)  # free again, since its process has ended
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
    assert len(workers._held) == 1


@pytest.mark.gpu
def test_gpus_are_known_by_names_that_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = workers.gpus()
    code = "import torch; print(torch.cuda.device_count(), torch.ones(2, device='cuda').sum().item())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": found[-1]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2.0"], done.stderr
    assert workers.jobs_at_once() == len(found)


@pytest.mark.parametrize("given", ["", "GPU-aa"])
def test_one_gpu_or_none_is_left_as_it_is(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    workers.claim_gpu(5)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == given


@pytest.mark.parametrize(("cores", "jobs"), [(1, 2), (2, 2), (8, 2), (16, 4), (64, 16)])
def test_without_gpus_cores_are_shared_out(cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert workers.jobs_at_once() == jobs


def test_a_job_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", TWO)
    assert workers.jobs_at_once() == 2
