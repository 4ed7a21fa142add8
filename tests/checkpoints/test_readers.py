import json
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def _same(found: object, wanted: dict[str, Tensor] = WEIGHTS) -> bool:
    return dict(found).keys() == wanted.keys() and all(torch.equal(dict(found)[name], wanted[name]) for name in wanted)


def test_every_format_gives_the_same_tensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "one.safetensors")
    torch.save(WEIGHTS, tmp_path / "one.pt")
    save_file(WEIGHTS, tmp_path / "renamed.bin")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "wrapped.bin")
    torch.save({"state_dict": WEIGHTS}, tmp_path / "best.pth.tar")
    torch.save(WEIGHTS, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for key in ("model", "model_state_dict", "module"):
        torch.save({"epoch": 3, key: WEIGHTS, "optimizer": {"state": {}}}, tmp_path / f"{key}.ckpt")
    torch.save({"state_dict": {"model": WEIGHTS, "step": 3}, "model": {}}, tmp_path / "twice.ckpt")
    torch.save(WEIGHTS | {"epoch": 3, "layer._extra_state": None}, tmp_path / "more.pt")
    wrapped = ("model.ckpt", "model_state_dict.ckpt", "module.ckpt", "twice.ckpt", "more.pt")
    for name in ("one.safetensors", "one.pt", "renamed.bin", "wrapped.bin", "best.pth.tar", "legacy.pth", *wrapped):
        assert _same(read(tmp_path / name)), name


def test_shards_and_hub_folders(tmp_path: Path) -> None:
    for name, weight in WEIGHTS.items():
        save_file({name: weight}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in WEIGHTS}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert _same(read(tmp_path))
    assert read(tmp_path).digest == read(tmp_path / "model.safetensors.index.json").digest


def test_a_file_beside_shards_is_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(WEIGHTS, shard)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert _same(read(tmp_path))
    assert not caplog.records  # an index without its shards is no second model
    save_file({name: weight + 1 for name, weight in WEIGHTS.items()}, tmp_path / shard)
    assert _same(read(tmp_path))
    (record,) = caplog.records
    assert (
        f"model.safetensors is taken, and its folder also holds model.safetensors.index.json and {shard}"
        in record.getMessage()
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.uint64, torch.complex64, torch.bool])
def test_dtypes_in_pickles(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"w": torch.eye(3).to(dtype)}, tmp_path / "x.pt")
    assert read(tmp_path / "x.pt")["w"].dtype == dtype


@pytest.mark.parametrize(("dtype", "bits"), [("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_dtypes_of_safetensors_that_pytorch_lacks(tmp_path: Path, dtype: str, bits: int) -> None:
    size = 4 * 8 * bits // 8
    header = json.dumps({"w": {"dtype": dtype, "shape": [4, 8], "data_offsets": [0, size]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(UserError, match=rf"'w' is stored in {dtype}, which PyTorch has no dtype for"):
        read(tmp_path / "x.safetensors")["w"]


def test_digest_follows_the_content(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    save_file(WEIGHTS, tmp_path / "b.safetensors")
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "c.safetensors")
    first, second, other = (read(tmp_path / f"{name}.safetensors").digest for name in "abc")
    assert first == second != other


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    big = {"w": torch.randn(100, 100)}
    save_file(big, path) if path.suffix == ".safetensors" else torch.save(big, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=rf"{name}.*truncated"):
        read(path)


class Evil:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Evil, "ran", True)


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    for name in ("module.pt", "evil.pt"):
        with pytest.raises(UserError, match=rf"{name}.*more than tensors"):
            read(tmp_path / name)
    assert not Evil.ran


def test_what_is_often_given_in_place_of_weights(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3\n"
    for name in ("model.safetensors", "model.bin"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(UserError, match=rf"{name}: a pointer of git-lfs.*git lfs pull"):
            read(tmp_path / name)
    for name in ("page.safetensors", "page.bin"):
        (tmp_path / name).write_text("\n<!DOCTYPE html><html>Sign in</html>")
        with pytest.raises(UserError, match=rf"{name}: a web page, not weights"):
            read(tmp_path / name)
    for name in ("model.gguf", "model.bin"):
        (tmp_path / name).write_bytes(b"GGUF\3\0\0\0")
        with pytest.raises(UserError, match=rf"{name}: a file of llama.cpp .*as safetensors"):
            read(tmp_path / name)
    model = nn.Linear(2, 2)
    torch.save(torch.optim.SGD(model.parameters()).state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer.pt: the state of an optimizer"):
        read(tmp_path / "optimizer.pt")
    torch.save(WEIGHTS, tmp_path / "torch.safetensors")
    with pytest.raises(UserError, match=r"a file of torch.save, not of safetensors; rename it to torch.bin"):
        read(tmp_path / "torch.safetensors")
    scripted, exported = ("data.pkl", "constants.pkl", "code/__torch__.py"), ("archive_format", "models/model.json")
    for name, parts in {"torch.jit": scripted, "torch.export": exported}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w") as archive:
            for part in parts:
                archive.writestr(f"script/{part}", b"")
        with pytest.raises(UserError, match=rf"a program with weights; load it with {name}.load"):
            read(tmp_path / f"{name}.pt")


def test_a_model_under_a_key_of_someones_own(tmp_path: Path) -> None:
    rest = {"epoch": 3, "args": Namespace(lr=0.1), "optimizer": {"state": {}, "param_groups": []}}
    for content in ({"net": WEIGHTS}, {"checkpoint": {"model": {"state_dict": WEIGHTS}}}):
        torch.save(content | rest, tmp_path / "one.pt")
        assert set(read(tmp_path / "one.pt")) == set(WEIGHTS)
    torch.save({"params": WEIGHTS, "params_ema": WEIGHTS}, tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"two\.pt holds several models, 'params' and 'params_ema'; save the one"):
        read(tmp_path / "two.pt")
    torch.save({"model": WEIGHTS, "best": np.float64(3)}, tmp_path / "numpy.pt")
    with pytest.raises(UserError, match=r"holds more than tensors \(a pickled numpy\.\w+\.multiarray\.scalar\)"):
        read(tmp_path / "numpy.pt")


def test_several_models_in_one_file_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    rest = {
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 2.0},
        "epoch": 3,
        "rng": {"cpu": torch.ones(2).int()},
    }
    torch.save({"model": WEIGHTS, **rest}, tmp_path / "one.pt")
    assert set(read(tmp_path / "one.pt")) == set(WEIGHTS)
    assert not caplog.text
    averaged = {name: weight + 1 for name, weight in WEIGHTS.items()}
    torch.save({"state_dict": WEIGHTS, "state_dict_ema": averaged, **rest}, tmp_path / "two.pt")
    assert torch.equal(read(tmp_path / "two.pt")["a.weight"], WEIGHTS["a.weight"])
    assert "two.pt holds several models, 'state_dict' and 'state_dict_ema'; 'state_dict' is taken" in caplog.text
    torch.save({"model": {"module": WEIGHTS}, "ema": {"module": averaged}}, tmp_path / "nested.pt")
    assert torch.equal(read(tmp_path / "nested.pt")["a.weight"], WEIGHTS["a.weight"])
    assert "'model' and 'ema'; 'model' is taken" in caplog.text


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": 3}, tmp_path / "number.pt")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty.pt").touch()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    for name in ("number.pt", "notes.txt", "absent.pt", "empty.pt", "model.safetensors.index.json"):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="bare"):
        read(tmp_path / "bare")
