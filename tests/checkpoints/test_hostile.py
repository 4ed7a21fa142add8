"""Files made to mislead: one line that names the file, and no code, no hang, no weights from elsewhere."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.sources import locate, open_weights

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file({"w": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "place",
    [
        *(INDEX, "other.index.json", "", ".", "..", "/etc/passwd", "../model.safetensors", "a/../../x.safetensors"),
        *("model.safetensors\0", "..\\model.safetensors", 3, None, ["model.safetensors"], {"a": 1}, "config.json"),
    ],
)
def test_an_index_names_files_beside_it_only(model: Path, place: object) -> None:
    (model / INDEX).write_text(json.dumps({"weight_map": {"w": place}}))
    with pytest.raises(UserError, match=rf"{INDEX} lists"):
        read(model / INDEX)


@pytest.mark.parametrize("place", ["x" * 300 + ".safetensors", "absent.safetensors"])
def test_an_index_of_files_that_cannot_be(model: Path, place: str) -> None:
    (model / INDEX).write_text(json.dumps({"weight_map": {"w": place}}))
    with pytest.raises(UserError, match=rf"no such file, and .*{INDEX} lists it"):
        read(model / INDEX)


@pytest.mark.parametrize(
    "text",
    ["[" * 100000, '{"weight_map": ' * 50000, "[]", "3", "{}", '{"weight_map": 3}', '{"weight_map": {"\\ud800": "x"}}'],
)
def test_an_index_that_is_none(model: Path, text: str) -> None:
    (model / INDEX).write_text(text)
    with pytest.raises(UserError, match=rf"{INDEX}: truncated or damaged"):
        read(model / INDEX)


@pytest.mark.parametrize("source", ["x" * 300, "/" + "x" * 5000, "~nobody-of-this-name/model", "a\0b", "loop"])
def test_paths_that_cannot_be(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for opened in (locate, read):
        with pytest.raises(UserError):
            opened(source)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """The archive with other members: sizes and checksums stay right, as after a careful change."""
    other = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for member in old.infolist():
            if (made := change(member.filename, old.read(member))) is not None:
                new.writestr(*made)
    other.replace(path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.save({"a": torch.ones(50), "b": torch.full((50,), 2.0)}, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def test_an_archive_of_torch_is_taken(archive: Path) -> None:
    rewritten(archive, lambda name, content: (name, content))
    assert read(archive)["b"].tolist() == [2.0] * 50


def test_a_record_shorter_than_its_tensor_is_not_filled_from_what_follows(archive: Path) -> None:
    rewritten(archive, lambda name, content: (name, content[:-40] if name.endswith("data/0") else content))
    with pytest.raises(UserError, match=r"m.pt: truncated or damaged .*shorter than its tensor"):
        read(archive)


def test_a_text_is_no_archive_of_torch(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("hello")
    with pytest.raises(UserError, match=r"m\.pt: truncated or damaged; remove it"):
        read(tmp_path / "m.pt")


@pytest.mark.parametrize("missing", ["data/0", "data.pkl"])
def test_a_record_that_is_missing(archive: Path, missing: str) -> None:
    rewritten(archive, lambda name, content: None if name.endswith(missing) else (name, content))
    with pytest.raises(UserError, match=r"m\.pt: truncated or damaged"):
        read(archive)


def test_compressed_records_are_not_mapped(archive: Path) -> None:
    with zipfile.ZipFile(archive) as old:
        members = [(member.filename, old.read(member)) for member in old.infolist()]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for member in members:
            new.writestr(*member)
    with pytest.raises(UserError, match=r"m\.pt: truncated or damaged"):
        read(archive)


def test_one_entry_does_not_stand_for_more_than_memory_holds(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20), "small": torch.ones(1).expand(100)}, tmp_path / "m.pt")
    with pytest.raises(UserError, match="larger than the file"):
        read(tmp_path / "m.pt")


def test_legacy_pickles_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(100)}, path, _use_new_zipfile_serialization=False)
    assert read(path)["w"].sum() == 100
    content = path.read_bytes()
    for at in range(0, len(content), 37):
        path.write_bytes(content[:at])
        with pytest.raises(UserError, match=r"m\.pt"):
            read(path)


def test_a_safetensors_header_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for header in (b"[" * 100000, b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}', b"", b"{}"):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(UserError, match=r"m\.safetensors"):
            read(path)
    path.write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(UserError, match=r"m\.safetensors"):
        read(path)


def test_what_cannot_be_read_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that the file is damaged: it is whole."""
    import tsv_exp.checkpoints.readers as readers

    for reason, remedy in (("Too many open files (os error 24)", "ulimit -n"), ("cannot allocate memory", "ulimit -v")):
        monkeypatch.setattr(readers, "safe_open", lambda *a, reason=reason, **k: (_ for _ in ()).throw(OSError(reason)))
        with pytest.raises(UserError, match=remedy) as found:
            read(model)
        assert "damaged" not in str(found.value)


BASE = {"model.layer.weight": torch.zeros(8, 6)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
FACTORS = {
    "base_model.model.model.layer.lora_A.weight": torch.ones(2, 6),
    "base_model.model.model.layer.lora_B.weight": torch.ones(8, 2),
}
A, B = FACTORS


def adapter(folder: Path, config: object = CONFIG, factors: dict[str, torch.Tensor] = FACTORS) -> Path:
    (folder / "adapter").mkdir()
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter" / "adapter_config.json").write_text(text)
    if any(factor.is_complex() for factor in factors.values()):
        torch.save(factors, folder / "adapter" / "adapter_model.bin")
    else:
        save_file(factors, folder / "adapter" / "adapter_model.safetensors")
    return folder / "adapter"


def test_an_honest_adapter(tmp_path: Path) -> None:
    opened = open_weights(adapter(tmp_path), BASE)
    assert torch.equal(opened["model.layer.weight"], torch.full((8, 6), 4.0))


@pytest.mark.parametrize(
    "change",
    [{"r": value} for value in (0, -2, "2", "two", None, True, [2], 10**400, 1e400, float("nan"), 3)]
    + [{"lora_alpha": value} for value in ("4", None, 10**400, float("nan"), {"a": 1})]
    + [{"rank_pattern": value} for value in ([["layer", 2]], "layer", 3, {"layer": "2"}, {"layer": 0}, {"(": 2})]
    + [{"rank_pattern": {"(a+)+$": 2}, "alpha_pattern": {"(" * 3000: 2}}, {"alpha_pattern": {"x" * 2000: 2}}]
    + [{"peft_type": kind} for kind in ("LOHA", "IA3", 3, ["LORA"])],
    ids=lambda change: str(change)[:40],
)
def test_adapter_configurations_that_cannot_be(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="adapter"):
        open_weights(adapter(tmp_path, CONFIG | change), BASE)


@pytest.mark.parametrize("text", ["", "[]", "{" * 50000, "[" * 100000, "null", '"LORA"'])
def test_adapter_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"adapter_config.json does not describe a LoRA adapter"):
        open_weights(adapter(tmp_path, text), BASE)


def test_a_pattern_that_would_take_for_ever(tmp_path: Path) -> None:
    name = "model." + "a" * 40 + "!"
    factors = {f"base_model.model.{name}.lora_{side}.weight": FACTORS[key] for side, key in (("A", A), ("B", B))}
    folder = adapter(tmp_path, CONFIG | {"rank_pattern": {"(a|a)*(a|a)*[x-z]": 2}}, factors)
    with pytest.raises(UserError, match=r"cannot use the pattern .*timed out"):
        open_weights(folder, {f"{name}.weight": torch.zeros(8, 6)})


@pytest.mark.parametrize(
    "factors",
    [
        {A: torch.ones(3, 6), B: torch.ones(8, 2)},
        {A: torch.ones(3, 6), B: torch.ones(8, 3)},
        {A: torch.ones(0, 6), B: torch.ones(8, 0)},
        {A: torch.ones(2, 6, dtype=torch.complex64), B: torch.ones(8, 2, dtype=torch.complex64)},
        {A: torch.ones(2, 6, dtype=torch.int32), B: torch.ones(8, 2)},
        {A: torch.ones(2, 3, 2), B: torch.ones(8, 2)},
        {A: torch.ones(2, 6)},
        {A: torch.ones(2, 5), B: torch.ones(8, 2)},
    ],
    ids=lambda factors: " ".join(str(tuple(factor.shape)) for factor in factors.values()),
)
def test_factors_that_do_not_fit(tmp_path: Path, factors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="adapter"):
        open_weights(adapter(tmp_path, factors=factors), BASE)
