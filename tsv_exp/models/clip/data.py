"""The images of a task at CLIP's input size, cached on disk; validation is drawn from train with a fixed seed."""

from dataclasses import dataclass, field

from tsv_exp.data.splits import Holdout, split_examples
from tsv_exp.data.tasks import source_of
from tsv_exp.models.images import Pictures, Resize, store, stored
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import CLIP


@dataclass(frozen=True)
class Data:
    """Images of any task at one size.

    Args:
        size: side length in pixels.
        holdout: how validation is drawn.
        cache_gb: disk space for preprocessed images in gigabytes; 0 disables the cache.
        resize: how images are resized.
    """

    size: int
    holdout: Holdout = field(default_factory=Holdout)
    cache_gb: float = 100.0
    resize: Resize = field(default_factory=Resize)

    def split(self, task: Task, split: SplitName) -> Split:
        """One split, from the cache of preprocessed images or from its source.

        Raises:
            UserError: the data cannot be fetched or read, or do not fit the task.
        """
        identity, cache = self.identity(task), cache_dir() / "clip"
        path = cache / "images" / f"{task.name}-{split}-{digest(identity, split)[:20]}.images"
        if self.cache_gb > 0 and (found := stored(path, self.size)):
            return found
        record = cache / "validation" / f"{task.name}-{identity[:20]}.json"
        examples = split_examples(task, source_of(task), split, "image", self.holdout, record)
        pictures = Pictures(examples.picture, len(examples), self.size, self.resize)
        return store(path, pictures, examples.labels, int(self.cache_gb * 1e9), f"images of {task.name}, {split}")

    def identity(self, task: Task) -> str:
        """Digest of everything that the images of a task depend on."""
        other = [] if self.resize == Resize() else [self.resize.interpolation, self.resize.mode]
        drawn = [self.holdout.share, self.holdout.most, self.holdout.seed]
        return digest(task.name, task.classes, source_of(task).identity(), drawn, self.size, CLIP, *other)
