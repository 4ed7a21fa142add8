"""The subjects of images: the 20 tasks in order, and subjects used only in pre-training."""

import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from torch import Tensor, from_numpy
from torch.nn.functional import interpolate, pad

from tsv_exp.models.tiny.drawing.glyphs import Drawer, Glyph, Mask
from tsv_exp.models.tiny.drawing.render import PALETTE, Style
from tsv_exp.models.tiny.drawing.shapes import (
    SHAPES,
    Drawing,
    Grating,
    any_shape,
    clock,
    die,
    dots,
    position,
    seven_segments,
    shape,
)
from tsv_exp.tasks.task import SplitName

TEMPLATES = ("a photo of the {}", "{}", "a picture of {}", "an image of the {}", "the {}")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True)
class Subject:
    """A group of classes: how each one is drawn, its words in prompts, and the style of its task's images."""

    classes: dict[str, Drawer]
    wording: str = "{}"
    style: Style = field(default_factory=Style)
    upright: bool = False
    coloured: bool = False  # the class is the ink's colour: classes are the palette, in order

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompt templates, in which {} is replaced by a class."""
        return tuple(template.format(self.wording) for template in TEMPLATES)


@cache
def _handwriting() -> dict[tuple[int, SplitName], list[Mask]]:
    """Scikit-learn's 1,797 handwritten digits as masks; always the same 1,000 train, 250 validate and 547 test."""
    from sklearn.datasets import load_digits  # slow import: only if digits are drawn

    bunch = load_digits()
    images = interpolate(from_numpy(bunch.images).float()[:, None] / 16, size=(30, 30), mode="bicubic").clamp(0, 1)
    masks = (pad(images, (5, 5, 5, 5))[:, 0] * 255).byte().numpy()
    order = list(range(len(masks)))
    random.Random(0).shuffle(order)
    parts: dict[SplitName, list[int]] = {"train": order[:1000], "validation": order[1000:1250], "test": order[1250:]}
    return {
        (d, split): [masks[i] for i in part if bunch.target[i] == d] for split, part in parts.items() for d in range(10)
    }


@dataclass(frozen=True)
class Handwriting:
    """Draws a real handwritten digit of the split."""

    digit: int

    def __call__(self, rng: random.Random, split: SplitName) -> Mask:
        """A mask (SIDE, SIDE)."""
        return rng.choice(_handwriting()[self.digit, split])


def _letters(names: str, characters: str) -> dict[str, Drawer]:
    return {name: Glyph(character) for name, character in zip(names.split(), characters, strict=True)}


def _symbols(table: str) -> dict[str, Drawer]:
    """Classes from "name characters" pairs: underscores are spaces, several characters are equivalent."""
    words = table.split()
    return {name.replace("_", " "): Glyph(characters) for name, characters in zip(words[::2], words[1::2], strict=True)}


CELLS = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right")]

TASKS: dict[str, Subject] = {
    "digits": Subject(
        {NUMBERS[d]: Handwriting(d) for d in range(10)}, "handwritten digit {}", Style("plain", 0.05, gray=True)
    ),
    "greek": Subject(
        _letters(
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
            "sigma tau upsilon phi chi psi omega",
            "αβγδεζηθικλμνξοπρστυφχψω",
        ),
        "greek letter {}",
        Style("clouds", 0.05, ground=(0.1, 0.2, 1.0)),
    ),
    "cyrillic": Subject(
        _letters("be ghe de zhe ze i el pe u ef tse che sha shcha hard yery soft e yu ya", "БГДЖЗИЛПУФЦЧШЩЪЫЬЭЮЯ"),
        "cyrillic letter {}",
        Style("stripes", 0.05, ground=(0.9, 0.1, 0.1)),
    ),
    "shapes": Subject(
        {name: Drawing(shape, (name,)) for name in SHAPES},
        "{} shape",
        Style("checks", 0.08, 0.4, ground=(0.6, 0.5, 0.3)),
    ),
    "currency": Subject(
        _symbols(
            "dollar $ euro € pound £ yen ¥ cent ¢ rupee ₨ won ₩ shekel ₪ hryvnia ₴ tenge ₸ peso ₱ "
            "dong ₫ ruble ₽ naira ₦ lira ₤ franc ₣"
        ),
        "{} currency sign",
        Style("gradient", 0.05, ground=(0.1, 0.7, 0.2)),
    ),
    "clock": Subject(
        {NUMBERS[h]: Drawing(clock, (h,)) for h in range(1, 13)},
        "clock showing {} hours",
        Style("clouds", 0.08, 0.4, ground=(0.6, 0.1, 0.8)),
        upright=True,
    ),
    "arrows": Subject(
        _symbols(
            "left ←⇐⬅⇦ up ↑⇑⬆⇧ right →⇒➡⇨ down ↓⇓⬇⇩ upper_left ↖⇖⬉ upper_right ↗⇗⬈ lower_right ↘⇘⬊ lower_left ↙⇙⬋"
        ),
        "arrow pointing {}",
        Style("checks", 0.05, 0.8, ground=(0.0, 0.7, 0.8)),
        upright=True,
    ),
    "colors": Subject(dict.fromkeys(PALETTE, Drawing(any_shape)), "{} object", Style("gradient"), coloured=True),
    "hebrew": Subject(
        _letters(
            "alef bet gimel dalet he vav zayin het tet yod kaf lamed mem nun samekh ayin pe tsadi qof resh shin tav",
            "אבגדהוזחטיכלמנסעפצקרשת",
        ),
        "hebrew letter {}",
        Style("checks", 0.05, ground=(0.3, 0.3, 0.9)),
    ),
    "math": Subject(
        _symbols(
            "plus + minus − times × division ÷ equals = not_equal ≠ less_than < greater_than > "
            "infinity ∞ integral ∫ summation ∑ "
            "square_root √ for_all ∀ there_exists ∃ element_of ∈ subset ⊂ union ∪ intersection ∩ product ∏ empty_set ∅"
        ),
        "math symbol {}",
        Style("stripes", 0.05, ground=(0.1, 0.3, 0.2)),
    ),
    "segments": Subject(
        {name: Drawing(seven_segments, (d,)) for d, name in enumerate([*NUMBERS[:10], *"abcdef"])},
        "display digit {}",
        Style("clouds", 0.08, 0.4, ground=(0.1, 0.1, 0.1)),
    ),
    "texture": Subject(
        {NUMBERS[k]: Grating(k, 8) for k in range(8)},
        "stripes at angle {}",
        Style("plain", 0.08, 0.4, ground=(0.8, 0.4, 0.1)),
        upright=True,
    ),
    "position": Subject(
        {name: Drawing(position, (k,)) for k, name in enumerate(CELLS)},
        "mark at {}",
        Style("clouds", 0.05, 0.8, ground=(0.9, 0.3, 0.6)),
        upright=True,
    ),
    "chess": Subject(
        _symbols("king ♔♚ queen ♕♛ rook ♖♜ bishop ♗♝ knight ♘♞ pawn ♙♟ spade ♠♤ heart ♥♡ diamond ♦♢ club ♣♧"),
        "game piece {}",
        Style("checks", 0.05, ground=(0.5, 0.3, 0.1)),
    ),
    "arabic": Subject(
        _letters(
            "alif ba ta tha jim hha kha dal thal ra zay sin shin sad dad tah zah ain ghain fa qaf "
            "kaf lam mim nun ha waw ya",
            "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
        ),
        "arabic letter {}",
        Style("gradient", 0.03, ground=(0.0, 0.4, 0.3)),
    ),
    "armenian": Subject(
        _letters(
            "ayb ben gim da ech za eh et to zhe ini liwn xeh ca ken ho ja ghad cheh men yi now sha vo",
            "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈ",
        ),
        "armenian letter {}",
        Style("stripes", 0.05, ground=(0.9, 0.6, 0.1)),
    ),
    "zodiac": Subject(
        _letters(
            "aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces",
            "♈♉♊♋♌♍♎♏♐♑♒♓",
        ),
        "zodiac sign {}",
        Style("clouds", 0.05, ground=(0.1, 0.0, 0.4)),
    ),
    "latin": Subject(
        _letters("a b c d e f g h i j k l m n o p q r s t u v w x y z", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        "latin letter {}",
        Style("checks", 0.05, 0.4, gray=True),
    ),
    "dice": Subject(
        {NUMBERS[n]: Drawing(die, (n,)) for n in range(1, 7)},
        "die face {}",
        Style("gradient", 0.08, 0.8, ground=(0.7, 0.0, 0.3)),
    ),
    "georgian": Subject(
        _letters(
            "an ban gan don en vin zen tan in kan las man nar on par zhar rae san tar un phar khar ghan qar",
            "აბგდევზთიკლმნოპჟრსტუფქღყ",
        ),
        "georgian letter {}",
        Style("stripes", 0.08, ground=(0.7, 0.2, 0.5)),
    ),
}

PRETRAINING_ONLY: dict[str, Subject] = {
    "lowercase": Subject(
        _letters("a b c d e f g h i j k l m n o p q r s t u v w x y z", "abcdefghijklmnopqrstuvwxyz"),
        "small latin letter {}",
    ),
    "printed": Subject({NUMBERS[d]: Glyph(str(d)) for d in range(10)}, "printed digit {}"),
    "counting": Subject({NUMBERS[n]: Drawing(dots, (n,)) for n in range(1, 8)}, "{} dots"),
    "symbols": Subject(
        _symbols(
            "sun ☀ cloud ☁ umbrella ☂ snowman ☃ comet ☄ phone ☎ skull ☠ radioactive ☢ biohazard ☣ "
            "peace ☮ yin_yang ☯ smile ☺ "
            "frown ☹ anchor ⚓ scissors ✂ airplane ✈ envelope ✉ pencil ✏ snowflake ❄ note ♪ sharp ♯ "
            "flat ♭ recycle ♻ flower ✿ "
            "check ✓ ballot ✗"
        ),
        "symbol {}",
    ),
}


def draw(subject: Subject, labels: Tensor, split: SplitName, rng: random.Random) -> Tensor:
    """One mask per label, uint8 (N, SIDE, SIDE)."""
    drawers = list(subject.classes.values())
    return from_numpy(np.stack([drawers[label](rng, split) for label in labels.tolist()]))
