"""The inputs that a method may use: validation examples, examples of other tasks, or noise (conf/inputs)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.tasks.task import Split


class Inputs(Protocol):
    """A choice of inputs."""

    def batches(self, evaluator: Evaluator, task: str) -> Iterator[Any]:
        """Prepared batches on which the model of a task runs."""
        ...

    def tasks(self, evaluator: Evaluator, task: str) -> Sequence[str]:
        """The tasks whose examples these are."""
        ...


@dataclass(frozen=True)
class Validation:
    """Validation examples of the model's own task, without labels."""

    examples: int = 256

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise UserError(f"inputs.examples={self.examples}: give the number of examples as a positive integer")

    def batches(self, evaluator: Evaluator, task: str) -> Iterator[Any]:
        """Prepared batches of `examples` examples of `tasks` together."""
        sources = self.tasks(evaluator, task)
        for number, source in enumerate(sources):
            share = self.examples // len(sources) + (number < self.examples % len(sources))
            split = evaluator.model.split(evaluator.tasks[source], "validation")
            for rows in drawn(split, share).split(evaluator.batch_size):
                yield evaluator.model.prepare(split.inputs[rows], evaluator.device)

    def tasks(self, evaluator: Evaluator, task: str) -> Sequence[str]:
        """The task itself."""
        return (task,)


@dataclass(frozen=True)
class OtherTasks(Validation):
    """Validation examples of the other tasks, the same number of each."""

    def tasks(self, evaluator: Evaluator, task: str) -> Sequence[str]:
        """All tasks but this one.

        Raises:
            UserError: there is no other.
        """
        others = [name for name in evaluator.tasks if name != task]
        if not others:
            raise UserError("inputs=other_tasks: there is one task only; give tasks=N, or inputs=noise")
        return others


@dataclass(frozen=True)
class Noise(Validation):
    """Normal random numbers in the shape of prepared examples; the same for every task."""

    def batches(self, evaluator: Evaluator, task: str) -> Iterator[Any]:
        """Prepared batches of noise.

        Raises:
            UserError: the model's inputs are no real numbers, such as tokens.
        """
        generator = torch.Generator().manual_seed(0)
        one = next(evaluator.model.split(evaluator.tasks[task], "validation").batches(1))[0]
        like = evaluator.model.prepare(one, evaluator.device)
        if not isinstance(like, Tensor) or not like.is_floating_point():
            raise UserError(f"inputs=noise: the inputs of model={evaluator.model.name} are not images; choose another")
        for start in range(0, self.examples, evaluator.batch_size):
            count = min(evaluator.batch_size, self.examples - start)
            yield torch.randn(count, *like.shape[1:], generator=generator).to(like)


def drawn(split: Split, count: int) -> Tensor:
    """The row indices, ascending, of at most `count` examples of a split, drawn with a fixed seed."""
    return torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count].sort().values
