"""How a changed embedded benchmark would rank methods, compared with ViT-B-32: one candidate, on validation images.

    OMP_NUM_THREADS=1 python benchmarks/ranking_study.py --tasks 8,14,20 --mix 1 OVERRIDE...

Overrides are those of tsv-exp, such as model=small, model.base=FILE, model.finetune.lr=2e-4 or model.data.classes=8.
Images are drawn from a seed for design; test images are never drawn. Candidates can differ in what these models have no
option for:

- `--mix S`: to the unit embedding of each class name, S times a random unit vector is added, so that zero-shot accuracy
  falls: the text tower knows the names less well.

Every method gets the best α of its own grid (alpha=search). The output is in the form of benchmarks/ranking.py, with
the figures behind it.
"""

import argparse
from typing import Any

import torch
from ranking import Figures, compare
from torch import Generator, Tensor
from torch.nn.functional import normalize
from zoos import ConfiguredZoo

from tsv_exp.methods.specification.method import Method
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Task

DESIGN = 777  # data seed
METHODS = "weight_average,task_arithmetic,ties,consensus_ta,tsv_m,iso_c,iso_cts,wudi,dc_merge"


class Candidate(TinyModel):
    """An embedded benchmark with class names that are known less well."""

    def __init__(self, mix: float, **settings: Any):
        super().__init__(**settings)
        self.mix = mix

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d) of the same norms, turned at random."""
        rows = super().head(task)
        noise = torch.randn(rows.shape, generator=Generator().manual_seed(int(digest(task.name)[:8], 16)))
        turned = normalize(normalize(rows, dim=-1) + self.mix * normalize(noise, dim=-1), dim=-1)
        return turned * rows.norm(dim=-1, keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of tsv-exp, such as model.finetune.steps=100")
    parser.add_argument("--tasks", default="8", help="numbers of tasks, separated by commas")
    parser.add_argument("--methods", default=METHODS, help="names of methods, separated by commas")
    parser.add_argument("--mix", type=float, default=0.0, help="size of the random part of class embeddings")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.tasks.split(",")]
    candidate = [
        "model._target_=ranking_study.Candidate",
        f"model.data.seed={DESIGN}",
        f"+model.mix={arguments.mix}",
    ]
    zoo = ConfiguredZoo([*candidate, *arguments.overrides], max(sizes))
    for size in sizes:
        models = zoo.models(size)
        zero = zoo.merge(Method.load("zero_shot"), models)
        points = {"zero_shot": zoo.point(zero, 0.0)}
        for name in arguments.methods.split(","):
            points[name] = zoo.choose(zoo.merge(Method.load(name), models))
        own = {name: Figures(100 * at.mean_accuracy, 100 * at.mean_normalized) for name, at in points.items()}
        own["individual"] = Figures(100 * sum(zoo.validation[task] for task in models) / size, 100.0)
        for name, figures in own.items():
            alpha = f", α {points[name].alpha:.3g}" if name in points else ""
            print(f"{name}: {figures.average:.1f}, normalized {figures.normalized:.1f}{alpha}", flush=True)
        compare(f"{size} tasks", size, own)


if __name__ == "__main__":
    main()
