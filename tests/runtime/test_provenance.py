"""What results.json says of program and machine."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from tsv_exp.runtime import provenance


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_working_copy_has_a_commit_and_is_clean_or_not(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("1")
    provenance.working_copy.cache_clear()
    assert provenance.working_copy(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.py").write_text("2")
    provenance.working_copy.cache_clear()
    assert provenance.working_copy(tmp_path) == {"commit": commit, "dirty": True}


def test_an_installed_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert provenance.working_copy(tmp_path / "site-packages") == {"commit": None, "dirty": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    provenance.working_copy.cache_clear()
    assert provenance.working_copy(tmp_path) == {"commit": None, "dirty": None}


def test_the_machine_has_no_name() -> None:
    found = provenance.machine(torch.device("cpu"))
    assert found["device"] == "cpu"
    assert found["device_name"]
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert isinstance(found["cpu_bfloat16"], bool)
    assert socket.gethostname() not in json.dumps(found)
