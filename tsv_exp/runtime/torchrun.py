"""The last word under torchrun, which prints a page about every process that ends with an error."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_LONGEST = 180  # seconds that torchrun may take to end
# Waits until torchrun is gone, then prints the line; a process of its own, since torchrun outlives those it starts.
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
    """Under torchrun: print a line once more after what torchrun prints. One process of each machine does.

    Returns whether this process is to print it now: the first that fails, and any that torchrun did not start.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return True
    parent = os.getppid()
    mark = Path(tempfile.gettempdir()) / f"tsv_exp-{os.getuid()}-{parent}"
    try:
        if mark.exists() and time.time() - mark.stat().st_mtime > _LONGEST:  # what a killed process left
            mark.unlink()
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    command = [sys.executable, "-I", "-S", "-c", _WAITS, str(parent), line, str(mark)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    return True
