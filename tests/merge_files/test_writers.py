"""Several commands on one output folder, and commands that are ended: nothing mixed, nothing half-written."""

import json
import os
import signal
import time
from pathlib import Path

import forked
import pytest
import torch
from models import zoo
from safetensors.torch import save_file

from tsv_exp import UserError, apply, merge
from tsv_exp.checkpoints import configuration, writer
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse
from tsv_exp.storage import files


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    base, finetuned = zoo(2, torch.float32)
    save_file(base, tmp_path / "base.safetensors")
    for task, weights in finetuned.items():
        save_file(weights, tmp_path / f"{task}.safetensors")
    models = ",".join(str(tmp_path / f"{task}.safetensors") for task in finetuned)
    return [f"base={tmp_path / 'base.safetensors'}", f"models=[{models}]", f"out={tmp_path / 'out'}"]


def output(folder: Path, recipe: str) -> writer.Output:
    return writer.Output(folder, "model", 1, recipe)


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    with output(tmp_path / "out", "a").prepared(wait=True):
        with (
            pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on"),
            output(tmp_path / "out", "a").prepared(wait=False),
        ):
            pass
        (tmp_path / "out" / "model.safetensors").touch()
        with (
            pytest.raises(UserError, match="contains something else"),
            output(tmp_path / "out", "b").prepared(wait=True),
        ):
            pass
    with output(tmp_path / "out", "a").prepared(wait=False):
        pass


def test_a_folder_taken_away_meanwhile_is_not_written_on(tmp_path: Path) -> None:
    mine = output(tmp_path / "out", "a")
    with mine.prepared(wait=True):
        (tmp_path / "out" / writer.STATE / "recipe").write_text("b")
        with pytest.raises(UserError, match="taken by another merge"):
            mine.write(mine.files[0], {}, [])
        with pytest.raises(UserError, match="taken by another merge"):
            mine.finish(None)
    assert not mine.files[0].exists()


def test_the_second_of_two_different_merges_waits_and_is_refused(words: list[str], tmp_path: Path) -> None:
    """The first is suspended before it has written anything but its recipe."""
    suspended = (
        "import time; from pathlib import Path; from tsv_exp.checkpoints import writer\n"
        "def finished(*_):\n"
        "    Path('begun').touch()\n"
        "    while not Path('go').exists(): time.sleep(0.01)\n"
        "writer.Output.finished = finished\n"
    )
    first = forked.Program(suspended + forked.entry("merge"), *words, cwd=tmp_path, env=os.environ)
    while first.process.is_alive() and not (tmp_path / "begun").exists():
        time.sleep(0.01)
    waiting = (
        "from pathlib import Path; from tsv_exp.storage import files\n"
        "files.NOTICE = 0\n"
        "files.holder = lambda lock: Path('waits').touch() or 'another'\n"
    )
    second = forked.Program(waiting + forked.entry("merge"), *words, "alpha=0.5", cwd=tmp_path, env=os.environ)
    while second.process.is_alive() and not (tmp_path / "waits").exists():
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert first.result().returncode == 0
    refused = second.result()
    assert refused.returncode == 1
    assert "held by another" in refused.stderr
    assert "already contains something else" in refused.stderr.strip().splitlines()[-1]
    base, finetuned = zoo(2, torch.float32)
    weights = read(tmp_path / "out")
    for name, tensor in apply(base, merge(base, finetuned)).items():
        torch.testing.assert_close(weights[name], tensor)


def test_identical_merges_at_once_all_end_well(words: list[str], tmp_path: Path) -> None:
    typed, where = [forked.entry("merge"), *words, "shard_mb=0.002"], {"cwd": tmp_path, "env": os.environ}
    started = [forked.Program(*typed, **where) for _ in range(3)]
    assert [program.result().returncode for program in started] == [0, 0, 0]
    assert not list((tmp_path / "out").rglob(f"*{files.PARTIAL}"))


def test_parts_of_two_merges_are_not_loaded_as_one(words: list[str], tmp_path: Path) -> None:
    run(parse([*words, "method=tsv_c", "shard_mb=0.01"]))
    others = [word.replace("/out", "/other") for word in words]
    run(parse([*others, "method=tsv_c", "shard_mb=0.01", "rank_fraction=0.2"]))
    load_merged(tmp_path / "out")
    name = "merged-00001-of-00002.safetensors"
    assert (tmp_path / "out" / name).is_file()
    (tmp_path / "other" / name).replace(tmp_path / "out" / name)
    with pytest.raises(UserError, match=rf"{name} is not the file that merged.json was written with"):
        load_merged(tmp_path / "out")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_end_a_merge_with_a_line_and_without_halves(
    words: list[str], tmp_path: Path, number: int, code: int
) -> None:
    slow = "import time\nfrom tsv_exp.checkpoints import writer\ntrue = writer.stream\n"
    slow += "def stream(*a):\n    true(*a); open('written', 'w').close(); time.sleep(60)\nwriter.stream = stream\n"
    program = forked.Program(slow + forked.entry("merge"), *words, cwd=tmp_path, env=os.environ)
    while program.process.is_alive() and not (tmp_path / "written").exists():
        time.sleep(0.01)
    assert list((tmp_path / "out").glob(f".*{files.PARTIAL}"))
    assert program.process.pid is not None
    os.kill(program.process.pid, number)
    done = program.result()
    assert done.returncode == code
    told = done.stderr.strip().splitlines()
    what = {143: "interrupted by SIGTERM", 129: "interrupted by SIGHUP", 130: "interrupted"}[code]
    assert told == [f"tsv-merge: {what}; run the same command again to resume"]
    assert not list((tmp_path / "out").rglob(f"*{files.PARTIAL}"))
    run(parse(words))


def test_a_full_disk_leaves_no_half_of_a_configuration_file(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    Path(tmp_path / "base.safetensors").rename(tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps({"a": "b" * 100}))

    def full(source: Path, target: Path) -> None:
        Path(target).write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configuration.shutil, "copyfile", full)
    words[0] = f"base={tmp_path / 'base'}"
    with pytest.raises(UserError, match=r"tokenizer.json: No space left on device; free space"):
        run(parse(words))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {writer.STATE, "model.safetensors"}
