"""The pre-training data: images of every subject in many styles, with captions that are often vague or wrong."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from tsv_exp.models.tiny.catalogue import PRETRAINING_ONLY, TASKS, TEMPLATES, Subject, draw
from tsv_exp.models.tiny.drawing.render import PALETTE, Style, Texture, render
from tsv_exp.models.tiny.network import ALIASES
from tsv_exp.runtime.console import track

CHUNK = 500  # images that share one style
TEXTURES: tuple[Texture, ...] = ("plain", "gradient", "checks", "clouds", "stripes")


@dataclass(frozen=True)
class Wording:
    """Probabilities of caption contents. They make image features good and zero-shot accuracy mediocre.

    A caption names its class by the task's own words with probability `own` (and then a wrong class of the subject with
    probability `wrong`), else by an alias of two made-up words; it mentions the colour with probability `colour`.
    """

    own: float = 0.1
    wrong: float = 0.4
    colour: float = 0.25


def _alias(number: int) -> str:
    return f"w{number // ALIASES} v{number % ALIASES}"


def _look(rng: random.Random) -> Style:
    """A random style that is not the background of any task."""
    return Style(rng.choice(TEXTURES), rng.choice((0.03, 0.05, 0.08)), rng.choice((0.0, 0.4, 0.8)))


def _captions(
    subject: Subject, first: int, labels: list[int], ink: list[int], wording: Wording, rng: random.Random
) -> list[str]:
    names, colours, texts = list(subject.classes), list(PALETTE), []
    for label, colour in zip(labels, ink, strict=True):
        if rng.random() < wording.own:
            text = subject.wording.format(rng.choice(names) if rng.random() < wording.wrong else names[label])
        else:
            text = _alias(first + label)
        if not subject.coloured and rng.random() < wording.colour:
            text = f"{colours[colour]} {text}"
        texts.append(rng.choice(TEMPLATES).format(text))
    return texts


def pool(count: int, wording: Wording, seed: int) -> tuple[Tensor, list[str]]:
    """Images uint8 (N, 3, H, W) and their captions; N is about `count`.

    Subjects' shares are between equal and proportional to their classes. Only training fonts and digits are used.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    subjects = [*TASKS.values(), *PRETRAINING_ONLY.values()]
    classes = [len(subject.classes) for subject in subjects]
    images, captions = [], []
    for i, subject in enumerate(track(subjects, "drawing the pre-training pool")):
        share = round(count * (0.5 / len(subjects) + 0.5 * classes[i] / sum(classes)))
        for start in range(0, share, CHUNK):
            size = min(CHUNK, share - start)
            labels = torch.randint(classes[i], (size,), generator=generator)
            ink = labels if subject.coloured else torch.randint(len(PALETTE), (size,), generator=generator)
            masks = draw(subject, labels, "train", rng)
            images.append(render(masks, ink, _look(rng), generator, upright=subject.upright, faithful=subject.coloured))
            captions += _captions(subject, sum(classes[:i]), labels.tolist(), ink.tolist(), wording, rng)
    return torch.cat(images), captions
