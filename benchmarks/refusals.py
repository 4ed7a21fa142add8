"""What a mistyped command costs: exit code, lines, time, and files left behind, each typed in an empty folder.

    python benchmarks/refusals.py

The requirement: exit code 1, one line on standard error, nothing left behind, and at most 2 seconds of processor time.
Some refusals need torch, whose import is measured too. Wall time is in parentheses: on a busy machine it is longer.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LIMIT = 2.0  # seconds of processor time

COMMANDS = (
    "tsv-exp method=tsvm",
    "tsv-exp alpha=abc",
    "tsv-exp alpha=-1",
    "tsv-exp alpha.stop=0.x",
    "tsv-exp sed=3",
    "tsv-exp seed=abc",
    "tsv-exp device=gpu",
    "tsv-exp device=cuda",
    "tsv-exp evaluate.precision=float8",
    "tsv-exp evaluate.batch_size=0",
    "tsv-exp engine.svd=fast",
    "tsv-exp tasks=99",
    "tsv-exp tasks=digts",
    "tsv-exp tasks=[digits,digts]",
    "tsv-exp method.rank_fraction=2",
    "tsv-exp method.rank=3",
    "tsv-exp method=ties method.density=none",
    "tsv-exp model.data.train=abc",
    "tsv-exp model.data.train=-5",
    "tsv-exp model.data.trian=5",
    "tsv-exp model.finetune.stepz=3",
    "tsv-exp +model.finetune.stepz=3",
    "tsv-exp model.finetune.steps=0.5",
    "tsv-exp tasks.digits.data=nowhere",
    "tsv-exp tracking=wandbb",
    "tsv-exp model=tiny model.checkpoints=nowhere tasks=[digits,greek]",
    "tsv-exp model=vit_b_32 model.cache_gb=much",
    "tsv-exp model=vit_b_32 method.rank_fraction=2",
    "tsv-exp model=minilm tasks=digits",
    "tsv-exp -m method=ties,tsv_m method.density=0.1",
    "tsv-exp -m method=ties,tsvm",
    "tsv-exp -m method.rank_fraction=0.1,2",
    "tsv-finetune",
    "tsv-finetune model=tiny",
    "tsv-finetune model=tiny task=digts",
    "tsv-finetune model=tiny task=digits finetune.lr=abc",
    "tsv-finetune model=tiny task=digits finetune.stepz=3",
    "tsv-finetune model=tiny task=digits finetune.steps=0",
    "tsv-finetune model=tiny task=digits device=cuda",
    "tsv-finetune model=tiny task=digits model.data.train=abc",
    "tsv-finetune task=DTD device=cuda",
    "tsv-analyze device=gpu",
    "tsv-analyze device=cuda",
    "tsv-analyze select=99",
    "tsv-analyze rank_fraction=2",
    "tsv-analyze tasks=digts",
    "tsv-analyze base=nowhere.safetensors models=[a,b]",
    "tsv-merge base=nowhere.safetensors models=[a.safetensors,b.safetensors] out=merged",
    "tsv-merge base=a models=[b,c] out=merged method=tsvm",
    "tsv-merge base=a models=[b,c] out=merged alpa=1",
    "tsv-merge base=a models=[b,c] out=merged alpha=abc",
    "tsv-report nowhere",
    "tsv-report . --publishd paper",
)


@dataclass(frozen=True)
class Outcome:
    """What a command did: its lines on standard error, what it left behind, processor and wall time in seconds."""

    code: int
    lines: list[str]
    left: list[str]
    processor: float
    wall: float

    @property
    def good(self) -> bool:
        return self.code in (1, 2) and len(self.lines) == 1 and not self.left and self.processor <= LIMIT


def typed(command: str, folder: Path) -> Outcome:
    """Run a command in a folder."""
    name, *arguments = command.split()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = Path(sys.executable).parent / name
    done = subprocess.run([path, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    left = sorted(path.name for path in folder.iterdir())
    return Outcome(done.returncode, done.stderr.strip().splitlines(), left, processor, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=COMMANDS, metavar="COMMAND", help="in quotes; default: all")
    commands, outcomes = parser.parse_args().commands, {}
    for command in commands:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[command] = one = typed(command, Path(folder))
        mark = "" if one.good else f"  <- exit code {one.code}, left behind {one.left}"
        print(f"{one.processor:5.2f} s ({one.wall:5.2f} s)  {command}{mark}")
        for line in one.lines:
            print(f"                   {line}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    importing = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    slowest = max(outcomes, key=lambda command: outcomes[command].processor)
    good = sum(one.good for one in outcomes.values())
    print(
        f"{good} of {len(outcomes)} as required; the slowest took {outcomes[slowest].processor:.2f} s of processor "
        f"time: {slowest}. Importing torch takes {importing:.2f} s. "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, torch {version('torch')}"
    )


if __name__ == "__main__":
    main()
