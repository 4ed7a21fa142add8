import hashlib
import os

import pytest

from tsv_exp.storage import known_digests as module
from tsv_exp.storage.known_digests import known_digests


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 4)
    (tmp_path / "weights").write_bytes(b"weights")
    return tmp_path / "weights"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_once(file, monkeypatch):
    assert known_digests([file]) == {file: sha256(b"weights")}
    monkeypatch.setattr(module, "_sha256", lambda path: "read again")
    assert known_digests([file]) == {file: sha256(b"weights")}


def test_a_changed_file_is_read_again(file):
    known_digests([file])
    file.write_bytes(b"changed")
    os.utime(file, ns=(1, 1))
    assert known_digests([file]) == {file: sha256(b"changed")}


def test_a_damaged_record_is_made_again(file, tmp_path):
    known_digests([file])
    for record in (tmp_path / "cache" / "digests").iterdir():
        record.write_text("[]")
    assert known_digests([file]) == {file: sha256(b"weights")}


def test_small_files_leave_no_record(file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100)
    assert known_digests([file]) == {file: sha256(b"weights")}
    assert not (tmp_path / "cache").exists()
