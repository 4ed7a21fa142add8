"""Accuracies of the fine-tuned models, by which all other accuracies are normalized."""

from collections.abc import Mapping

from tsv_exp.api import merge
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.merging.layer import Weights
from tsv_exp.runtime.console import silent, track
from tsv_exp.tasks.task import SplitName


def finetuned_accuracies(
    evaluator: Evaluator, base: Weights, finetuned: Mapping[str, Weights], split: SplitName
) -> dict[str, float]:
    """Task -> accuracy (a fraction) of its fine-tuned model on a split; holds one model at a time in memory."""
    accuracies = {}
    for name in track(evaluator.tasks, f"fine-tuned models on {split}"):
        with silent():  # no merge of several models, so it is not shown as one
            individual = merge(base, {name: finetuned[name]}, "individual")
        accuracies[name] = evaluator.accuracy(individual, 1.0, name, split)
    return accuracies
