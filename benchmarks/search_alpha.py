"""Replays alpha=search on the grids of finished runs: number of passes, and distance to the best value.

    python benchmarks/search_alpha.py OUTPUTS...      (folders with results.json of runs with alpha=grid)

Prints a line per grid; fails if a grid exceeds the documented limits (a third of the passes, 0.2 points).
"""

import argparse
import json
import sys
from pathlib import Path

from tsv_exp.evaluation.alpha import Grid, Point, Search

GAP = 0.2  # points of mean normalized validation accuracy


def grids(folders: list[Path]) -> list[tuple[str, list[Point]]]:
    found = {}
    for path in sorted(path for folder in folders for path in folder.rglob("results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        points = [Point(**point) for point in results.get("validation") or ()]
        if len(points) > 1 and [p.alpha for p in points] == whole(points):
            found[str(points)] = f"{results['method']} {results.get('params')}, {len(results['tasks'])} tasks", points
    return list(found.values())


def whole(points: list[Point]) -> list[float]:
    grid = Grid(points[-1].alpha, len(points))
    return [grid.value(i) for i in range(1, len(points) + 1)]


def replay(points: list[Point]) -> tuple[int, float]:
    """Number of passes, and points below the grid's best."""
    known = {point.alpha: point for point in points}
    choice = Search(points[-1].alpha, len(points)).choose(known.__getitem__)
    best = max(point.mean_normalized for point in points)
    return len(choice.tried), 100 * (best - known[choice.alpha].mean_normalized)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    worst, broken, count = 0.0, 0, 0
    for name, points in grids(parser.parse_args().folders):
        passes, gap = replay(points)
        worst, count = max(worst, gap), count + 1
        broken += gap > GAP or 3 * passes > len(points)
        print(f"{passes:3d} of {len(points)} passes, {gap:.3f} points below the best: {name}")
    print(f"{count} grids, at worst {worst:.3f} points below the best, {broken} beyond {GAP} points or a third")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
