"""Interrupts tsv-merge, started as from a shell, at random moments of its life: imports, options, merge, exit.

    python benchmarks/interruptions.py --count 200 --seed 1

Each must end with exit code 130 and one line, or end well if its work was done; while Python itself starts, it is
Python that answers, with a traceback. kill.py starts commands whose
libraries are loaded already; here they are loaded while the signal arrives.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from killed_commands import models

from tsv_exp.runtime.console import track

CODE = "import sys; sys.argv[0] = 'tsv-merge'; from tsv_exp.commands.main import merge; sys.exit(merge())"


def started(words: list[str]) -> subprocess.Popen[str]:
    """The command in a fresh interpreter that does not ignore SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def outcome(words: list[str], after: float) -> str:
    """What one interruption gave."""
    process = started(words)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if "interrupted" in line]
    if process.returncode == 130 and len(lines) == 1 and "Traceback" not in errors:
        return "interrupted, one line"
    if process.returncode == 0 and not lines and "Error" not in errors:
        return "ended well"
    if process.returncode and "tsv_exp" not in errors:
        return "answered by Python, which had run no line of this package"
    return f"failure: {after:.3f} s after the start, exit code {process.returncode}: {errors[-500:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, found = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        words = models(Path(place))
        begun = time.monotonic()
        assert started([*words, f"out={place}/alone"]).wait() == 0
        seconds = time.monotonic() - begun
        for number in track(range(options.count), "interruptions"):
            found[outcome([*words, f"out={place}/{number}"], draw.uniform(0, seconds))] += 1
    for what, count in found.most_common():
        print(f"{count} {what}")
    return int(any(what.startswith("failure") for what in found))


if __name__ == "__main__":
    sys.exit(main())
