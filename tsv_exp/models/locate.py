"""Finds the file or repository of each task's checkpoint from `model.checkpoints`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tsv_exp.checkpoints.folders import ADAPTER_FILES, HUB_NAMES
from tsv_exp.checkpoints.sources import HUB_FILE
from tsv_exp.errors import UserError
from tsv_exp.tasks.task import Task

FINETUNED, ZERO_SHOT = "nonlinear_finetuned.pt", "nonlinear_zeroshot.pt"
TASK = "{task}"
FILES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class CheckpointLocations:
    """A family of checkpoints: the location of each task's checkpoint, and of the base if the family has its own.

    `pattern` names repositories: * is replaced by the task's `checkpoint_name`. `file_pattern` names files: {task} is
    replaced by the task.
    `missing` is the error message if there are no checkpoints yet; fine-tuning needs none.
    """

    family: str
    paths: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    pattern: str | None = None
    file_pattern: str | None = None
    missing: str | None = None

    def path_of(self, task: Task, model: str) -> str:
        """The path or repository of one task: its own `checkpoint`, else the family's.

        Args:
            task: the task.
            model: the model's name, for a task with one checkpoint per model.

        Raises:
            UserError: there is none.
        """
        own = task.source.get("checkpoint")
        place = own.get(model) if isinstance(own, Mapping) else own
        place = place or self.paths.get(task.name)
        if place is None and self.file_pattern is not None:
            place = self.file_pattern.replace(TASK, task.name)
        if place is None and self.pattern is not None and (name := task.source.get("checkpoint_name")):
            place = self.pattern.replace("*", str(name))
        if place is None and self.missing is not None:
            raise UserError(self.missing)
        if place is None:
            known = self.pattern or ", ".join(self.paths) or "none"
            raise UserError(
                f"model.checkpoints has no checkpoint of {task.name}; it has: {known}; "
                f"make one with tsv-finetune task={task.name}, and give it as tasks.{task.name}.checkpoint=FILE"
            )
        return str(place)


def locate(checkpoints: str | Mapping[str, str], folder: str) -> CheckpointLocations:
    """The layout that `model.checkpoints` names.

    Args:
        checkpoints: a pattern of hub repositories in which * is the task; a pattern of files, local or in a repository
            (owner/name@revision/path/{task}/full.pt); a folder, in the paper's layout
            (<folder>/<Task>Val/nonlinear_finetuned.pt) or with one file or folder per task; or a mapping task -> path
            or repository.
        folder: the model's name in the paper's layout.

    Raises:
        UserError: nothing matches.
    """
    if isinstance(checkpoints, Mapping):
        return CheckpointLocations("listed", {str(name): str(place) for name, place in checkpoints.items()})
    if TASK in checkpoints:
        found = HUB_FILE.fullmatch(checkpoints.replace(TASK, "task"))
        return CheckpointLocations(found["repo"] if found else "files", file_pattern=checkpoints)
    if "*" in checkpoints:
        return CheckpointLocations("hub", pattern=checkpoints)
    root = Path(checkpoints).expanduser()
    if not root.is_dir():
        missing = (
            f"model.checkpoints={checkpoints}: no such folder; give one, a mapping of tasks, "
            "or a pattern of repositories such as owner/clip_*"
        )
        return CheckpointLocations(root.name, missing=missing)
    for inside in (root / folder, root):
        places = {path.parent.name.removesuffix("Val"): str(path) for path in sorted(inside.glob(f"*Val/{FINETUNED}"))}
        if places:
            bases = sorted(str(path) for path in inside.glob(f"*Val/{ZERO_SHOT}"))
            if not bases:
                raise UserError(
                    f"{inside}: expected the base as <Task>Val/{ZERO_SHOT} beside the fine-tuned checkpoints"
                )
            return CheckpointLocations("paper", places, bases[0])
    return CheckpointLocations(root.resolve().name, _in_folder(root))


def _in_folder(root: Path) -> dict[str, str]:
    """Task -> its file, or its folder in the hub's or PEFT's layout; FILES gives the order of preference."""
    names = (*HUB_NAMES, *ADAPTER_FILES)
    folders = {path.name: str(path) for path in root.iterdir() if any((path / name).is_file() for name in names)}
    files = {
        path.stem: str(path) for kind in reversed(FILES) for path in sorted(root.glob(f"*{kind}")) if path.is_file()
    }
    return folders | files
