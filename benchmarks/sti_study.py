"""Does Singular Task Interference predict which tasks merge well? Random subsets of a benchmark's tasks.

    python benchmarks/sti_study.py                      # measures what is missing, then writes docs/sti.md
    python benchmarks/sti_study.py --per-size 20        # more subsets
    python benchmarks/sti_study.py --model minilm --tasks 14 --sizes 2 4 8 --out docs/sti_text.md

Measurements are stored in outputs/sti_study.jsonl, so that an interrupted study resumes.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sti_report import METHODS, STEPS, Measurement, report

from tsv_exp import Method, merge
from tsv_exp.analyze.analysis import analyze, propose
from tsv_exp.config import Engine, conf_dir
from tsv_exp.evaluation.alpha import mean, normalized
from tsv_exp.evaluation.evaluator import Evaluator, weights_digest
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import track
from tsv_exp.tasks.task import Split, SplitName

EXAMPLES: dict[SplitName, int] = {"validation": 50, "test": 200}  # per task; there are more, but many subsets
START = {"task_arithmetic": 4, "ties": 4, "tsv_m": 4}  # start of the search for the best value
ROOT = Path(__file__).parents[1]


class FewExamples:
    """A model whose splits are limited to EXAMPLES examples, evenly spaced: splits of texts are sorted by length."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def split(self, task: Any, split: SplitName) -> Split:
        """Some of the examples of a split."""
        whole, count = self.model.split(task, split), EXAMPLES[split]
        rows = torch.arange(count) * len(whole) // count
        return Split(Chosen(whole.inputs, rows), whole.labels[rows])


@dataclass(frozen=True)
class Chosen:
    """Some of the inputs of a split."""

    inputs: Any
    rows: torch.Tensor

    def __getitem__(self, index: Any) -> Any:
        return self.inputs[self.rows[index]]


class Bench:
    """A benchmark, loaded once: the first tasks of a model."""

    def __init__(self, model: str, count: int) -> None:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("analyze", overrides=[f"model={model}"])
        self.model = FewExamples(instantiate(cfg.model))
        self.engine = Engine(exclude=list(self.model.exclude))
        self.tasks = list(self.model.catalogue().values())[:count]
        self.base, self.finetuned = self.model.base(), self.model.finetuned(self.tasks)
        self.identity = {"base": weights_digest(self.base), "images": EXAMPLES}
        self.identity |= {name: weights_digest(weights) for name, weights in self.finetuned.items()}
        evaluator, individual = (
            self._evaluator(self.tasks),
            merge(self.base, self.finetuned, "individual", engine=self.engine),
        )
        self.best = {split: evaluator.accuracies(individual, 1.0, split) for split in EXAMPLES}

    def _evaluator(self, tasks: Sequence[Any]) -> Evaluator:
        return Evaluator(cast(Model, self.model), tasks, torch.device("cpu"))

    def measure(self, names: tuple[str, ...], kind: str) -> Measurement:
        """Analyze and merge one subset by every method, α chosen on validation."""
        models = {name: self.finetuned[name] for name in names}
        analysis = analyze(self.base, models, engine=self.engine)
        cosines = analysis.cosines[~torch.eye(len(names), dtype=torch.bool)]
        losses = {method: self._loss(models, Method.load(method)) for method in METHODS}
        score = propose(analysis, len(names))[0].score
        return Measurement(names, kind, analysis.relative, score, float(cosines.mean()), losses)

    def _loss(self, models: dict[str, Any], method: Method) -> float:
        evaluator = self._evaluator([task for task in self.tasks if task.name in models])
        merged = merge(self.base, models, method, engine=self.engine)
        best = {split: {name: self.best[split][name] for name in models} for split in self.best}
        step = method.alpha.stop / STEPS

        @cache
        def score(index: int) -> float:
            return mean(normalized(evaluator.accuracies(merged, step * index, "validation"), best["validation"]))

        alpha = step * climb(score, START[method.name])
        return 1 - mean(normalized(evaluator.accuracies(merged, alpha, "test"), best["test"]))


def climb(score: Callable[[int], float], index: int) -> int:
    """The local maximum of a score on 1 … STEPS that is reached from `index`, the smaller index among equals."""
    while True:
        best = max((i for i in (index - 1, index, index + 1) if 1 <= i <= STEPS), key=lambda i: (score(i), -i))
        if best == index:
            return index
        index = best


def subsets(pool: Sequence[str], per_size: int, sizes: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Distinct random subsets, the same ones every time; one of each size in turn."""
    rng, seen = random.Random(2412), set()
    for _ in range(per_size):
        for size in sizes:
            while (chosen := tuple(sorted(rng.sample(pool, size), key=pool.index))) in seen:
                pass
            seen.add(chosen)
            yield chosen


def main() -> None:
    """Measure what is missing, then write docs/sti.md."""
    parser = argparse.ArgumentParser(description="Does STI tell which tasks merge well?")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", type=int, default=20, help="the first tasks of the model")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(range(2, 9)))
    parser.add_argument("--per-size", type=int, default=10, help="random subsets of each size")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "sti.md")
    parser.add_argument("--kept", type=Path, default=ROOT / "outputs" / "sti_study.jsonl")
    options = parser.parse_args()
    bench = Bench(options.model, options.tasks)
    pool = [task.name for task in bench.tasks]
    wanted = [(chosen, "random") for chosen in subsets(pool, options.per_size, options.sizes)]
    for size in options.sizes:
        analysis = analyze(bench.base, bench.finetuned, together=size, engine=bench.engine)
        wanted.append((propose(analysis, size)[0].tasks, "selected"))
    options.kept.parent.mkdir(parents=True, exist_ok=True)
    lines = options.kept.read_text().splitlines() if options.kept.exists() else []
    known = {
        (tuple(m["tasks"]), m["kind"]): m["measurement"] for m in map(json.loads, lines) if m["of"] == bench.identity
    }
    found = []
    with options.kept.open("a") as file:
        for names, kind in track(wanted, "task subsets"):
            if (names, kind) not in known:
                measured = asdict(bench.measure(names, kind))
                known[names, kind] = measured
                entry = {"tasks": names, "kind": kind, "measurement": measured, "of": bench.identity}
                file.write(json.dumps(entry) + "\n")
                file.flush()
            found.append(Measurement(**known[names, kind] | {"tasks": names}))
    sizes = " ".join(map(str, options.sizes))
    options.out.write_text(report(found, vars(options) | {"sizes": sizes} | EXAMPLES))


if __name__ == "__main__":
    main()
