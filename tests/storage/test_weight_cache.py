import os
import resource
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import Weights, cached_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    return tmp_path


def cached(name: str, key: str, make: Callable[[], Weights]) -> Weights:
    return cached_weights(cache_dir() / f"{name}-{key[:20]}.safetensors", key, make)


class Trainer:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"weight": torch.arange(6.0).view(2, 3)}


def test_trained_once(cache: Path) -> None:
    trainer = Trainer()
    for _ in range(2):
        assert torch.equal(cached("digits", "a" * 64, trainer)["weight"], torch.arange(6.0).view(2, 3))
    assert trainer.calls == 1
    assert [path.suffix for path in sorted(cache.rglob("digits*"))] == [".safetensors", ".lock"]


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # stands in for the disk: a longer file fails
    try:
        with pytest.raises(UserError, match=r"cannot write .*digits-a+\.safetensors: .*ulimit -f"):
            cached("digits", "a" * 64, lambda: {"weight": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in cache.rglob("*digits*")] == [".lock"]
    assert cached("digits", "a" * 64, Trainer()).keys() == {"weight"}


def test_another_key_is_another_file() -> None:
    trainer = Trainer()
    cached("digits", "a" * 64, trainer)
    cached("digits", "b" * 64, trainer)
    assert trainer.calls == 2


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "changed", "foreign"])
def test_damaged_or_foreign_files_are_replaced(cache: Path, damage: str) -> None:
    cached("digits", "a" * 64, Trainer())
    (path,) = cache.rglob("*.safetensors")
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not weights")
        case "truncated":
            path.write_bytes(content[:-3])
        case "changed":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "foreign":
            save_file({"weight": torch.ones(2, 3)}, path)
    trainer = Trainer()
    assert torch.equal(cached("digits", "a" * 64, trainer)["weight"], torch.arange(6.0).view(2, 3))
    assert trainer.calls == 1
    assert path.read_bytes() == content


def test_a_failed_training_leaves_nothing(cache: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("digits", "a" * 64, fail)
    assert not list(cache.rglob("*.safetensors*")) or {path.suffix for path in cache.rglob("digits*")} == {".lock"}


def test_two_processes_train_once(tmp_path: Path) -> None:
    code = """
import time, torch
from pathlib import Path
from tsv_exp.storage.weight_cache import cached_weights
def slow():
    with Path("log").open("a") as file:
        file.write("trained\\n")
    time.sleep(0.5)
    return {"weight": torch.ones(2)}
cached_weights(Path("digits.safetensors"), "a" * 64, slow)
"""
    both = [forked.Program(code, cwd=tmp_path, env=os.environ) for _ in range(2)]
    assert [program.result(60).returncode for program in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "trained\n"
