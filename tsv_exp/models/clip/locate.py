"""Which file or repository holds each task's checkpoint, by the layout that `model.checkpoints` names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsv_exp.checkpoints.readers import HUB_NAMES
from tsv_exp.errors import UserError
from tsv_exp.tasks.task import Task

FINETUNED, ZERO_SHOT = "nonlinear_finetuned.pt", "nonlinear_zeroshot.pt"


@dataclass(frozen=True)
class Located:
    """A family of checkpoints: each task's place, and the base's where the family has its own."""

    family: str
    places: Mapping[str, str]
    base: str | None = None

    def place(self, task: Task) -> str:
        """The path or repository of one task.

        Raises:
            UserError: there is none.
        """
        if task.name not in self.places:
            known = ", ".join(self.places) or "none"
            raise UserError(f"model.checkpoints has no checkpoint of {task.name}; it has: {known}")
        return self.places[task.name]


def locate(checkpoints: str | Mapping[str, str], tasks: Sequence[Task], folder: str) -> Located:
    """The layout that `model.checkpoints` names.

    Args:
        checkpoints: a pattern of hub repositories in which * stands for a task; a folder, in the paper's layout
            (<folder>/<Task>Val/nonlinear_finetuned.pt) or with one file or folder per task; or a mapping task -> path
            or repository.
        tasks: the catalogue.
        folder: the model's name in the paper's layout.

    Raises:
        UserError: there is nothing of that kind.
    """
    if isinstance(checkpoints, Mapping):
        known = [task.name for task in tasks]
        for name in checkpoints:
            if name not in known:
                raise UserError(f"model.checkpoints: unknown task {name!r}; choose from: {', '.join(known)}")
        return Located("listed", {str(name): str(place) for name, place in checkpoints.items()})
    if "*" in checkpoints:
        suffixes = {task.name: str(task.source["hub_checkpoint_suffix"]) for task in tasks}
        return Located("hub", {name: checkpoints.replace("*", suffix) for name, suffix in suffixes.items()})
    root = Path(checkpoints).expanduser()
    if not root.is_dir():
        raise UserError(
            f"model.checkpoints={checkpoints}: no such folder; give one, a mapping of tasks, "
            "or a pattern of repositories such as owner/clip_*"
        )
    for inside in (root / folder, root):
        found = {task.name: inside / f"{task.name}Val" / FINETUNED for task in tasks}
        places = {name: str(path) for name, path in found.items() if path.is_file()}
        if places:
            bases = sorted(str(path) for path in inside.glob(f"*Val/{ZERO_SHOT}"))
            if not bases:
                raise UserError(
                    f"{inside}: expected the base as <Task>Val/{ZERO_SHOT} beside the fine-tuned checkpoints"
                )
            return Located("paper", places, bases[0])
    return Located(root.resolve().name, {task.name: place for task in tasks if (place := _in_folder(root, task))})


def _in_folder(root: Path, task: Task) -> str | None:
    candidates = [root / f"{task.name}{suffix}" for suffix in (".safetensors", ".pt", ".pth", ".bin")]
    if any((root / task.name / name).is_file() for name in HUB_NAMES):
        candidates.append(root / task.name)
    return next((str(path) for path in candidates if path.exists()), None)
