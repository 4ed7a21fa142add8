"""Characters as bitmaps, rendered from the fonts that ship inside matplotlib."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tsv_exp.tasks.task import SplitName

Mask = NDArray[np.uint8]
Drawer = Callable[[random.Random, SplitName], Mask]

SIDE = 40  # side of a mask in pixels; larger than an image, to leave margins for shifts and rotations
LARGEST = 36  # pixels of a glyph's longer side
SIZES = (32, 26, 20, 15)  # font sizes, tried in descending order
TRAINING_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique",
    "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
TEST_FONTS = ("DejaVuSans-BoldOblique", "DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneralBol")


def _path(font: str) -> Path:
    import matplotlib  # slow import: only if characters are drawn

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


@cache
def _characters(font: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(_path(font), lazy=True) as opened:
        return frozenset(opened.getBestCmap())


@cache
def _sized(font: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(font), size)


@cache
def fonts(character: str, split: SplitName) -> tuple[str, ...]:
    """The fonts that draw a character in a split: test fonts are held out wherever one of them has the character."""
    have = [font for font in TRAINING_FONTS if ord(character) in _characters(font)]
    held_out = [font for font in TEST_FONTS if ord(character) in _characters(font)]
    return tuple(held_out if split == "test" and held_out else have)


@cache
def bitmap(character: str, font: str) -> Mask:
    """A character centred on a mask (SIDE, SIDE), 255 where there is ink."""
    for size in SIZES:
        left, top, right, bottom = _sized(font, size).getbbox(character)
        if max(right - left, bottom - top) <= LARGEST:
            break
    image = Image.new("L", (SIDE, SIDE))
    corner = ((SIDE - right + left) / 2 - left, (SIDE - bottom + top) / 2 - top)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=_sized(font, size))
    return np.asarray(image, np.uint8)


@dataclass(frozen=True)
class Glyph:
    """Draws one of several equivalent characters in a font of the split."""

    characters: str

    def __call__(self, rng: random.Random, split: SplitName) -> Mask:
        """A mask (SIDE, SIDE)."""
        character = rng.choice(self.characters)
        return bitmap(character, rng.choice(fonts(character, split)))
