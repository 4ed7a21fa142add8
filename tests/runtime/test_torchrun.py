import os
import subprocess
import sys


def test_our_line_comes_last(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words = ["-m", "tsv_exp.merge_files", "base=nowhere.pt", "models=[a.pt]", f"out={tmp_path / 'out'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("tsv-merge: nowhere.pt: there is no such file or folder")
    assert sum(line.startswith("tsv-merge:") for line in lines) == 2, "at once, and again when torchrun is through"
    assert not list(tmp_path.glob("tsv_exp-*"))
