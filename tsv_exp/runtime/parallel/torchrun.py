"""Prints the error message last under torchrun, which prints a page about every failed process."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_LONGEST = 180  # seconds to wait for torchrun to exit
# Waits until torchrun has exited, then prints the line; a separate process, since torchrun outlives its workers.
_WAITS = """
import os, select, sys, time
pid, line, mark = int(sys.argv[1]), sys.argv[2], sys.argv[3]
try:
    select.select([os.pidfd_open(pid)], [], [], 120)
except (AttributeError, OSError):
    for _ in range(1200):
        try:
            os.kill(pid, 0)
        except OSError:
            break
        time.sleep(0.1)
print(line, file=sys.stderr, flush=True)
os.unlink(mark)
"""


def repeat_last(line: str) -> bool:
    """Under torchrun: print a line again after torchrun's output. One process per machine does this.

    Returns whether this process should print the line now: the first one that fails, or any without torchrun.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return True
    parent = os.getppid()
    mark = Path(tempfile.gettempdir()) / f"tsv_exp-{os.getuid()}-{parent}"
    try:
        if mark.exists() and time.time() - mark.stat().st_mtime > _LONGEST:  # left by a killed process
            mark.unlink()
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    command = [sys.executable, "-I", "-S", "-c", _WAITS, str(parent), line, str(mark)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    return True
