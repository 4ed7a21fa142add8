"""The base class of models that read a task's prompt and answer in words."""

from dataclasses import dataclass

from tsv_exp.models.text.base import TransformersModel
from tsv_exp.models.text.tokens import Text
from tsv_exp.tasks.task import Task

IGNORED = -100  # a position that losses ignore


@dataclass(eq=False, repr=False)
class Prompted(TransformersModel):
    """A network that reads prompts: a task's first template, in which {} is replaced by its texts, in order."""

    length: int = 512

    def _input(self, task: Task, text: Text) -> Text:
        return task.templates[0].format(*([text] if isinstance(text, str) else text))
