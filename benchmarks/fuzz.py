"""Fuzzing: reads thousands of mutants of checkpoints, adapters, indexes, merges by task, results and analyses.

    python benchmarks/fuzz.py --seed 1 --out benchmarks/results/fuzz.json

Each kind runs in a separate process with limited memory. A mutant that ends in anything but a one-line error or the
correct content, takes more than 20 seconds of processor time, or kills the process is a failure: it is printed, and the
exit code is 1.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fuzzing import kinds

COUNTS = {  # number of mutants; a report reads five at a time
    "checkpoint model.safetensors": 500,
    "checkpoint model.pt": 500,
    "checkpoint legacy.pt": 500,
    "index": 300,
    "adapter configuration": 300,
    "adapter factors": 300,
    "merge by task": 500,
    "results": 1000,
    "analyses": 500,
}
TOGETHER = {"results": 5, "analyses": 5}
SECONDS = 20  # seconds of processor time per mutant; the limit of wall time is six times as large
MEMORY = 4 << 30  # memory limit of a process in bytes


class Hang(BaseException):
    """A mutant took too long."""


def measure(kind: str, count: int, number: int) -> dict[str, Any]:
    """Read `count` mutants of a kind and count the outcomes."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    mutants, target = kinds()[kind]
    ends: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0

    def alarm(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGVTALRM, alarm)

    @seed(number)
    @settings(
        max_examples=count // TOGETHER.get(kind, 1),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants)
    def read(mutant: Any) -> None:
        nonlocal slowest
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        signal.alarm(6 * SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="mutant") as folder:
                ends.update(target(mutant, Path(folder)))
        except Hang:
            ends["hang"] += 1
            failures.append(f"hang: {mutant!r}"[:3000])
        except AssertionError as error:
            ends["accepted wrongly"] += 1
            failures.append(f"{error}: {mutant!r}"[:3000])
        except Exception as error:  # noqa: BLE001 - every outcome is counted
            ends["traceback"] += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{type(error).__name__}: {error} at {at.filename}:{at.lineno}: {mutant!r}"[:3000])
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            slowest = max(slowest, time.process_time() - start)

    read()
    return {"kind": kind, "ends": dict(ends), "failures": failures, "slowest_s": round(slowest, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="times the number of mutants")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kind", choices=COUNTS, help="only this kind, in this process")
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.kind, int(COUNTS[options.kind] * options.scale), options.seed)))
        return 0
    found: list[dict[str, Any]] = []
    for kind in COUNTS:
        words = ["--kind", kind, "--seed", str(options.seed), "--scale", str(options.scale)]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            found.append({"kind": kind, "ends": {"crash": 1}, "failures": [f"exit code {done.returncode}: {last}"]})
        else:
            found.append(json.loads(done.stdout.splitlines()[-1]))
        print(kind, found[-1]["ends"], f"slowest {found[-1].get('slowest_s')} s", flush=True)
        for failure in found[-1]["failures"][:5]:
            print("   ", failure[:600])
    if options.out:
        options.out.write_text(
            json.dumps({"seed": options.seed, "scale": options.scale, "results": found}, indent=1) + "\n"
        )
    return int(any(entry["failures"] for entry in found))


if __name__ == "__main__":
    sys.exit(main())
