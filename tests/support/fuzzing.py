"""Mutants of seed files, and what reading each must come to: for tests/fuzz and benchmarks/fuzz.py.

A mutant is refused with one line that names it, or accepted; what is accepted has the right content, unless nothing in
the file shows that it was changed. Anything else (another exception, a wrong value) is a failure.
"""

import json
import math
import shutil
import struct
import zipfile
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from mutations import mutated_bytes, mutated_json
from safetensors.torch import load_file

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.report import write
from tsv_exp.report.plots import pictures

SECRET = "a file outside"
SEEDS = Path(__file__).parents[1] / "fuzz" / "seeds"
REFUSED, SAME, UNSEEN = "refused", "accepted, unchanged", "accepted, the change cannot be seen"
_ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def _refused(error: UserError, name: str) -> str:
    told = str(error)
    assert "\n" not in told, told
    assert name in told, f"{told!r} does not name {name}"
    assert len(told) < 1500, told
    return REFUSED


def _equal(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    def same(one: torch.Tensor, other: torch.Tensor) -> bool:
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))

    return found.keys() == wanted.keys() and all(same(found[name], wanted[name]) for name in wanted)


def checkpoint(name: str, content: bytes, folder: Path) -> str:
    """Read a mutant of a file of weights.

    Raises:
        AssertionError: it has other content, and something in the file shows that.
    """
    path, original = folder / name, (SEEDS / name).read_bytes()
    path.write_bytes(content)
    try:
        weights = read(path)
        found = {key: weights[key].clone() for key in weights}
    except UserError as error:
        return _refused(error, name)
    if _equal(found, dict(read(SEEDS / name))):
        return SAME
    if name.endswith(".safetensors"):
        assert _valid_header(content), "a damaged header was accepted"
    elif name != "legacy.pt":  # which has no sizes and no sums
        assert len(content) == len(original), "an archive of another length has other weights"
        path.write_bytes(_with_payload(original, content))
        assert _equal(found, torch.load(path, weights_only=True)), "weights come from outside their records"
    return UNSEEN


def _valid_header(content: bytes) -> bool:
    """Whether a file is safetensors by the format's definition."""
    try:
        size = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + size])
        entries.pop("__metadata__", None)
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        ends = [0, *(end for _, end in spans)]
        fit = all(
            math.prod(entry["shape"]) * _ITEM_SIZES[entry["dtype"]]
            == entry["data_offsets"][1] - entry["data_offsets"][0]
            for entry in entries.values()
        )
        return (
            fit
            and all(span[0] == end for span, end in zip(spans, ends, strict=False))
            and ends[-1] == len(content) - 8 - size
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


def _with_payload(original: bytes, mutant: bytes) -> bytes:
    """The original archive with the bytes of its weights, and nothing else, from the mutant."""
    made = bytearray(original)
    with zipfile.ZipFile(SEEDS / "model.pt") as archive:
        for member in archive.infolist():
            if "/data/" in member.filename:
                name, extra = struct.unpack("<HH", original[member.header_offset + 26 : member.header_offset + 30])
                start = member.header_offset + 30 + name + extra
                made[start : start + member.file_size] = mutant[start : start + member.file_size]
    return bytes(made)


def index(text: str, folder: Path) -> str:
    """Read shards by a mutant of their index."""
    shutil.copytree(SEEDS / "sharded", folder, dirs_exist_ok=True)
    path = folder / "model.safetensors.index.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        weights = read(path)
        found = {key: weights[key] for key in weights}
    except UserError as error:
        return _refused(error, folder.name)
    listed = json.loads(text)["weight_map"]
    for name, tensor in found.items():
        assert torch.equal(load_file(SEEDS / "sharded" / Path(listed[name]).name)[name], tensor)
    return SAME if _equal(found, dict(read(SEEDS / "sharded"))) else UNSEEN


def adapter(text: str | None, content: bytes | None, folder: Path) -> str:
    """Open an adapter with a mutant of its configuration or of its factors."""
    shutil.copytree(SEEDS / "adapter", folder, dirs_exist_ok=True)
    if text is not None:
        (folder / "adapter_config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    if content is not None:
        (folder / "adapter_model.safetensors").write_bytes(content)
    base = load_file(SEEDS / "model.safetensors")
    try:
        opened = open_weights(folder, base)
        found = {key: opened[key] for key in opened}
        merge(base, {"task": opened}, "weight_average")  # which looks at every number
    except UserError as error:
        return _refused(error, "")
    factors = {key.removeprefix("base_model.model."): value.double() for key, value in
               load_file(folder / "adapter_model.safetensors").items()}  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not (config.get("rank_pattern") or config.get("alpha_pattern")) and {
        "layer.lora_A.weight",
        "layer.lora_B.weight",
    } <= set(factors):
        r = config["r"]
        scale = config["lora_alpha"] / (math.sqrt(r) if config.get("use_rslora") else r)
        wanted = base["layer.weight"].double() + scale * factors["layer.lora_B.weight"] @ factors["layer.lora_A.weight"]
        torch.testing.assert_close(found["layer.weight"].double(), wanted, equal_nan=True, rtol=1e-4, atol=1e-5)
    before = open_weights(SEEDS / "adapter", base)
    return SAME if all(torch.equal(found[name], before[name]) for name in found) else UNSEEN


def merge_by_task(text: str, folder: Path) -> str:
    """Load and apply a merge by task with a mutant of its description."""
    shutil.copytree(SEEDS / "merged", folder, dirs_exist_ok=True)
    (folder / "merged.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    base = load_file(SEEDS / "model.safetensors")
    try:
        merged = load_merged(folder)
        found = {task: apply(base, merged, task=task) for task in merged.tasks}
        _ = merged.stored_bytes, merged.stored_bytes_without_base
    except UserError as error:
        return _refused(error, "")
    for weights in found.values():
        assert all(weights[name].shape == base[name].shape for name in base)
        assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point())
    original = load_merged(SEEDS / "merged")
    same = tuple(merged.tasks) == original.tasks and all(
        _equal(found[task], apply(base, original, task=task)) for task in original.tasks
    )
    return SAME if same else UNSEEN


def report(texts: list[str], analyses: list[str], folder: Path, drawn: bool) -> list[str]:
    """Report on mutants of results and analyses beside a good run: each is shown, or costs one line."""
    shutil.copytree(SEEDS / "good", folder / "good")
    for kind in ("png", "svg"):
        (folder / f"outside.{kind}").write_text(SECRET)
    for number, text in enumerate(texts):
        (folder / f"r{number}").mkdir()
        (folder / f"r{number}" / "results.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    for number, text in enumerate(analyses):
        shutil.copytree(SEEDS / "analysis", folder / f"a{number}")
        (folder / f"a{number}" / "analysis.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    draw = pictures.draw_pictures
    pictures.draw_pictures = draw if drawn else lambda *_, **__: []
    try:
        made = write.write_report([folder], folder / "out")
    finally:
        pictures.draw_pictures = draw
    assert any(cell.folder.name == "good" for cell in made.runs.finished), "the good run is lost"
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert b64encode(SECRET.encode()).decode() not in page
    problems = {problem.folder.name: problem.reason for problem in made.runs.problems}
    assert all("\n" not in reason and len(reason) < 12_000 for reason in problems.values())
    numbered = [f"r{number}" for number in range(len(texts))] + [f"a{number}" for number in range(len(analyses))]
    known = {cell.folder.name for cell in (*made.runs.finished, *made.runs.unsuccessful)}
    known |= {place.name for place in made.runs.analyses}
    assert all(name in problems or name in known or made.runs.replaced for name in numbered)
    return [REFUSED if name in problems else UNSEEN for name in numbered]


Target = Callable[[Any, Path], list[str]]


def _checkpoint_outcome(name: str, mutant: bytes, folder: Path) -> list[str]:
    return [checkpoint(name, mutant, folder)]


def kinds() -> dict[str, tuple[st.SearchStrategy[Any], Target]]:
    """Kind -> mutants, and what reading one in an empty folder comes to."""

    def text(name: str) -> str:
        return (SEEDS / name).read_text(encoding="utf-8")

    found: dict[str, tuple[st.SearchStrategy[Any], Target]] = {
        f"checkpoint {name}": (
            mutated_bytes((SEEDS / name).read_bytes()),
            partial(_checkpoint_outcome, name),
        )
        for name in ("model.safetensors", "model.pt", "legacy.pt")
    }
    found["index"] = (
        mutated_json(text("sharded/model.safetensors.index.json")),
        lambda mutant, folder: [index(mutant, folder)],
    )
    found["adapter configuration"] = (
        mutated_json(text("adapter/adapter_config.json")),
        lambda mutant, folder: [adapter(mutant, None, folder)],
    )
    found["adapter factors"] = (
        mutated_bytes((SEEDS / "adapter/adapter_model.safetensors").read_bytes()),
        lambda mutant, folder: [adapter(None, mutant, folder)],
    )
    found["merge by task"] = (
        mutated_json(text("merged/merged.json")),
        lambda mutant, folder: [merge_by_task(mutant, folder)],
    )
    found["results"] = (
        st.tuples(st.lists(mutated_json(text("good/results.json")), min_size=5, max_size=5), st.integers(0, 9)),
        lambda mutants, folder: report(mutants[0], [], folder, drawn=mutants[1] == 0),
    )
    found["analyses"] = (
        st.lists(mutated_json(text("analysis/analysis.json")), min_size=5, max_size=5),
        lambda mutants, folder: report([], mutants, folder, drawn=False),
    )
    return found
