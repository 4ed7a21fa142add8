"""What a cell of a sweep costs whose scores are known: merged again, or reused from an earlier sweep.

    OMP_NUM_THREADS=1 python benchmarks/known_cells.py --out benchmarks/results/known_cells.json

Cells differ by a note only, so all merges are the same and only the first is scored. Figures are processor seconds of
the user's command per cell: the difference between a large and a small sweep over the difference in cells. Deciding
what to run is measured apart: composing and checking each job's configuration, and looking up finished cells.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from merge_speed import show

import tsv_exp.commands.exp  # noqa: F401 - registers the configuration schema
from tsv_exp.config import conf_dir
from tsv_exp.evaluation.checks.configuration import check_configuration
from tsv_exp.sweeps import resume

METHODS, WARM = ("tsv_m", "ties"), "tasks=3"


def sweep(cells: int, outputs: Path) -> float:
    """Processor seconds of a sweep."""
    notes = ",".join(f"n{i}" for i in range(cells))
    command = ["-m", "method=tsv_m", "tasks=2", "alpha=1", f"notes={notes}", f"paths.outputs={outputs}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "tsv_exp.commands.exp", *command], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def per_cell(few: int, many: int) -> dict[str, float]:
    """Processor seconds per cell: computed with known scores, and reused."""
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        sweep(1, Path(name) / "scored")
        computed, reused = ([sweep(few, small), sweep(many, large)] for _ in range(2))
    return {
        "computed": (computed[1] - computed[0]) / (many - few),
        "reused": (reused[1] - reused[0]) / (many - few),
    }


def deciding(cells: int) -> dict[str, float]:
    """Processor seconds per cell of each part of the decision what to run: 2 methods × 10 values of a key × seeds."""
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        spent[name] = spent.get(name, 0.0) + (time.process_time() - start) / cells
        return found

    with initialize_config_dir(str(conf_dir()), version_base="1.3"), tempfile.TemporaryDirectory() as outputs:
        loader: Any = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        HydraConfig.instance().set_config(loader.load_sweep_config(master, [WARM]))
        check_configuration(loader.load_sweep_config(master, [WARM]))  # imports
        jobs = [
            [f"method={METHODS[i % 2]}", "tasks=2", f"alpha.stop={1 + i // 2 % 10}", f"seed={i // 20}"]
            for i in range(cells)
        ]
        for job in jobs:
            config = timed("composing", partial(loader.load_values, master, job))
            timed("checking", partial(check_configuration, config))
            key = timed("keys", partial(resume.cell_key, config))
            timed("finding", partial(resume.find, key, Path(outputs)))
    return spent | {"all": sum(spent.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs=2, default=[10, 30])
    parser.add_argument("--decided", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "deciding_seconds_per_cell": deciding(args.decided),
        "seconds_per_cell": per_cell(*args.cells),
    }
    show(result, args.out)


if __name__ == "__main__":
    main()
