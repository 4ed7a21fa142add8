"""The cost of Weights & Biases (offline) per cell of a sweep: logs configuration, accuracies, α curve and timings.

python benchmarks/tracking_cost.py --cells 100
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from synthetic import results

from tsv_exp.tracking.protocol import Description
from tsv_exp.tracking.wandb import WandbTracker

CONFIG = {"model": {"name": "tiny"}, "tasks": 4, "method": {"name": "tsv_m", "rank_fraction": None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100)
    options = parser.parse_args()
    content = results(curve={step / 10: step / 30 for step in range(1, 31)})
    tracker, seconds = WandbTracker(), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.cells + 1):
            start = time.perf_counter()
            run = tracker.open(Description("tsv_m", "run", Path(folder), "sweep", config=CONFIG))
            for point in content["validation"]:
                run.point(point)
            run.results(content, Path(folder))
            run.close(0)
            seconds.append(time.perf_counter() - start)
    print(f"{statistics.median(seconds[1:]):.3f} s a cell (median of {options.cells})", end=", ")
    print(f"{seconds[0]:.1f} s for the first, which starts the service")


if __name__ == "__main__":
    main()
