"""Killed merges that are run again, and merges by several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import forked
import pytest
from models import close, same

from tsv_exp import apply, merge
from tsv_exp.checkpoints.readers import read
from tsv_exp.decompositions import fast
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse


def test_killed_and_run_again(files, tmp_path):
    words = [*files[2], "shard_mb=0.002"]
    program = forked.Program(forked.entry("merge"), *words, cwd=tmp_path, env=os.environ)
    while program.process.is_alive() and not list((tmp_path / "out").glob("model-*")):
        time.sleep(0.005)
    program.process.kill()
    program.result()
    halves = [
        tmp_path / "out" / place / ".model-00001-of-00002.safetensors.host-1.abc.partial"
        for place in (".", ".tsv-merge")
    ]
    for half in halves:  # it may have been killed between two files
        half.write_bytes(b"half a file")
    run(parse(words))
    same(tmp_path / "out", apply(files[0], merge(files[0], files[1]), 1.0))
    assert not list((tmp_path / "out").rglob(".model*"))


def test_killed_before_there_was_a_recipe(files, tmp_path):
    (tmp_path / "out" / ".tsv-merge").mkdir(parents=True)
    (tmp_path / "out" / ".tsv-merge" / ".recipe.abc").touch()
    run(parse(files[2]))
    same(tmp_path / "out", apply(files[0], merge(files[0], files[1]), 1.0))


def under_torchrun(words, ranks):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "-m", "tsv_exp.merge_files", *words], env=environment, **quiet)


@pytest.mark.parametrize(("ranks", "shard_mb", "method"), [(2, 512, "tsv_m"), (2, 512, "tsv_c"), (3, 0.002, "tsv_m")])
def test_ranks_share_the_work_and_change_nothing(files, tmp_path, ranks, shard_mb, method):
    words = [*files[2], f"shard_mb={shard_mb}", f"method={method}"]
    with patch.object(fast, "leading", wraps=fast.leading) as fast_way:
        run(parse(words))
    assert fast_way.called
    shared = [word.replace("/out", "/shared") for word in words]
    if ranks == 3:  # before, one of two is killed at work: the other stops, and it all ends as if nothing had been
        process = under_torchrun(shared, 2)
        while process.poll() is None and not (tmp_path / "shared" / ".tsv-merge" / "recipe").exists():
            time.sleep(0.002)
        victim = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1]
        os.kill(int(victim), signal.SIGKILL)
        assert process.wait() != 0
    ends = forked.ranks(forked.entry("merge"), *shared, count=ranks, cwd=tmp_path, env=os.environ)
    assert [end.returncode for end in ends] == [0] * ranks, ends
    alone = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.safetensors")}
    assert alone == {file.name: file.read_bytes() for file in (tmp_path / "shared").glob("*.safetensors")}
    assert not list((tmp_path / "shared" / ".tsv-merge").glob("*.safetensors")), "pieces are cleared away"


@pytest.mark.gpu
def test_ranks_may_share_a_gpu(files, tmp_path):
    words = [*files[2], "device=cuda:0"]
    run(parse(words))
    shared = [word.replace("/out", "/shared") for word in words]
    ends = forked.ranks(forked.entry("merge"), *shared, count=2, cwd=tmp_path, env=os.environ)
    assert [end.returncode for end in ends] == [0, 0], ends
    close(read(tmp_path / "shared"), read(tmp_path / "out"), 1e-6)
