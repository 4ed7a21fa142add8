"""Eight concurrent commands on one output folder or one cache: no mixed results, no duplicate work.

    python benchmarks/writers.py --rounds 5 --seed 1 --out benchmarks/results/writers.json

Eight identical and eight different tsv-merge on one folder, started within half a second; eight tsv-exp with one cache,
where each fine-tuned model must be trained once. Commands run as children of a process that has loaded the libraries.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kill import start, waited
from killed_commands import SMALL, files, models

WRITERS = 8
PATTERNS = ("*.safetensors", "*.index.json", "merged.json")


def together(name: str, words: list[list[str]], place: Path, draw: random.Random) -> list[tuple[int, str]]:
    """Exit codes and output of commands that are started within half a second."""
    children = []
    for number, line in enumerate(words):
        time.sleep(draw.uniform(0, 0.5 / len(words)))
        children.append(start(name, line, place / f"{number}.log"))
    codes = [waited(child) for child in children]
    return [(code, (place / f"{number}.log").read_text(errors="replace")) for number, code in enumerate(codes)]


def merges(kind: str, change: Callable[[int], list[str]], words: list[str], rounds: int, draw: random.Random) -> Any:
    """Merges on one folder, round by round: how they ended, and whether the folder holds the result of one of them."""
    done: dict[str, Any] = {"kind": kind, "rounds": rounds, "wrote": 0, "refused": 0, "failures": []}
    with tempfile.TemporaryDirectory(prefix="writers") as place:
        wanted = []
        for number in range(WRITERS):
            alone = Path(place) / f"alone{number}"
            assert waited(start("tsv-merge", [*words, *change(number), f"out={alone}"], Path(place) / "log")) == 0
            wanted.append(files(alone, *PATTERNS))
        for number in range(rounds):
            out = Path(place) / f"out{number}"
            lines = [[*words, *change(writer), f"out={out}"] for writer in range(WRITERS)]
            ends = together("tsv-merge", lines, Path(place), draw)
            found = files(out, *PATTERNS)
            wrote = [writer for writer, (code, _) in enumerate(ends) if code == 0]
            done["wrote"] += len(wrote)
            done["refused"] += sum(code == 1 and "contains something else" in output for code, output in ends)
            if not wrote or any(found != wanted[writer] for writer in wrote):
                done["failures"].append(f"round {number}: {wrote} ended well, the folder is another")
            if any(code not in (0, 1) or "Traceback" in output for code, output in ends):
                done["failures"].append(f"round {number}: {[output[-300:] for code, output in ends if code]}")
            if list(out.rglob("*.partial")):
                done["failures"].append(f"round {number}: temporary files are left")
    return done


def experiments(draw: random.Random) -> Any:
    """tsv-exp with one empty cache: how often each model was trained."""
    from tsv_exp.models import local_training

    done: dict[str, Any] = {"kind": "tsv-exp, one cache", "rounds": 1, "failures": []}
    with tempfile.TemporaryDirectory(prefix="writers") as place:
        log, true = Path(place) / "trained", local_training.finetune

        def counted(*arguments: Any, **options: Any) -> Any:
            with log.open("a") as file:
                file.write("trained\n")
            return true(*arguments, **options)

        local_training.finetune = counted
        words = [
            "method=tsv_m",
            "tasks=2",
            "alpha=fixed",
            *SMALL,
            "model.finetune.steps=3",
            f"paths.cache={place}/cache",
        ]
        ends = together("tsv-exp", [[*words, f"paths.outputs={place}/{i}"] for i in range(WRITERS)], Path(place), draw)
        local_training.finetune = true
        results = [json.loads(path.read_text())["test"] for path in Path(place).glob("*/runs/*/*/results.json")]
        done |= {"ended_well": sum(code == 0 for code, _ in ends), "trained": len(log.read_text().splitlines())}
        if done["ended_well"] != WRITERS or done["trained"] != 2:
            done["failures"].append(f"{[output[-300:] for code, output in ends if code]}")
        if len(results) != WRITERS or any(one != results[0] for one in results):
            done["failures"].append("results differ")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import tsv_exp.commands.exp
    import tsv_exp.commands.merge
    import tsv_exp.run  # noqa: F401 - preloaded for the children

    torch.set_num_threads(1)
    draw, found = random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="writers") as place:
        os.environ["TSV_EXP_CACHE"] = f"{place}/cache"
        words = [*models(Path(place)), "shard_mb=0.2"]
        cases: list[tuple[str, Callable[[int], list[str]]]] = [
            ("identical tsv-merge", lambda number: []),
            ("different tsv-merge", lambda number: [f"alpha={(number + 1) / 10}"]),
            ("different tsv-merge, tsv_c", lambda number: ["method=tsv_c", f"rank_fraction={(number + 1) / 20}"]),
        ]
        for kind, change in cases:
            found.append(merges(kind, change, words, options.rounds, draw))
            print(json.dumps(found[-1]), flush=True)
        found.append(experiments(draw))
        print(json.dumps(found[-1]), flush=True)
    if options.out:
        report = {"writers": WRITERS, "rounds": options.rounds, "seed": options.seed, "results": found}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(one["failures"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
