"""A linear encoder with two tasks, small enough to compute by hand."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tsv_exp.models.protocol import Model
from tsv_exp.tasks.task import Split, SplitName, Task

SHAPE = (3, 2, 2)
TASKS = [Task(name, ("x", "y", "z"), ("{}",)) for name in ("a", "b")]
CPU = torch.device("cpu")


class Linear(Model):
    """A model that is small enough to compute by hand."""

    name = family = "linear"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        self.module.load_state_dict(
            {k: torch.randn(v.shape, generator=generator) for k, v in self.module.state_dict().items()}
        )
        self.heads = {task.name: torch.randn(3, 5, generator=generator) for task in TASKS}
        self.images = torch.randint(256, (40, *SHAPE), generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(3, (40,), generator=generator)
        self.reads = 0

    def catalogue(self) -> dict[str, Task]:
        return {task.name: task for task in TASKS}

    def task(self, name: str, definition: Mapping[str, object]) -> Task:
        return self.catalogue()[name]

    def encoder(self) -> nn.Module:
        module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        module.load_state_dict(self.base())
        return module

    def prepare(self, inputs: Tensor, device: torch.device) -> Tensor:
        return inputs.to(device).float() / 255

    def head(self, task: Task) -> Tensor:
        return self.heads[task.name]

    def split(self, task: Task, split: SplitName) -> Split:
        self.reads += 1
        return Split(self.images, self.labels)

    def base(self) -> Mapping[str, Tensor]:
        return self.module.state_dict()

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        return {
            task.name: {
                k: v + torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) for k, v in self.base().items()
            }
            for i, task in enumerate(tasks)
        }

    def identity(self, task: Task) -> str:
        return task.name
