"""Procedural masks: every call draws a new one with random sizes, places and line widths."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tsv_exp.models.tiny.drawing.glyphs import SIDE, Mask
from tsv_exp.tasks.task import SplitName

CANVAS = 3 * SIDE  # drawn larger, then downsampled for smooth edges
MIDDLE = CANVAS / 2
TAU = 2 * math.pi
Pen = ImageDraw.ImageDraw
Box = tuple[float, float, float, float]


def _box(x: float, y: float, rx: float, ry: float | None = None) -> Box:
    ry = rx if ry is None else ry
    return (x - rx, y - ry, x + rx, y + ry)


def _corners(count: int, radius: float, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a regular polygon, every second one at `inner` times the radius: a star."""
    radii = [radius * (inner if i % 2 else 1.0) for i in range(count)]
    angles = [TAU * i / count - TAU / 4 for i in range(count)]
    return [(MIDDLE + r * math.cos(a), MIDDLE + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def shape(pen: Pen, rng: random.Random, name: str) -> None:
    """A filled plane figure."""
    c, r = MIDDLE, rng.uniform(36, 54)
    match name:
        case "circle":
            pen.ellipse(_box(c, c, r), fill=255)
        case "ellipse":
            pen.ellipse(_box(c, c, r, r * rng.uniform(0.4, 0.6)), fill=255)
        case "ring":
            pen.ellipse(_box(c, c, r), fill=255)
            pen.ellipse(_box(c, c, r * rng.uniform(0.45, 0.7)), fill=0)
        case "crescent":
            pen.ellipse(_box(c, c, r), fill=255)
            pen.ellipse(_box(c + r * rng.uniform(0.4, 0.7), c, r), fill=0)
        case "square":
            pen.rectangle(_box(c, c, 0.8 * r), fill=255)
        case "cross":
            width = r * rng.uniform(0.2, 0.4)
            pen.rectangle(_box(c, c, r, width), fill=255)
            pen.rectangle(_box(c, c, width, r), fill=255)
        case "trapezoid":
            top = r * rng.uniform(0.3, 0.5)
            pen.polygon(
                [(c - top, c - 0.6 * r), (c + top, c - 0.6 * r), (c + r, c + 0.6 * r), (c - r, c + 0.6 * r)], 255
            )
        case "arch":
            pen.pieslice(_box(c, c + 0.2 * r, r), 180, 360, fill=255)
            pen.pieslice(_box(c, c + 0.2 * r, 0.5 * r), 180, 360, fill=0)
        case "star":
            pen.polygon(_corners(10, r, inner=0.42), fill=255)
        case _:
            pen.polygon(_corners({"triangle": 3, "pentagon": 5, "hexagon": 6}[name], r), fill=255)


SHAPES = (
    "circle", "square", "triangle", "star", "pentagon", "cross", "ring", "crescent",
    "ellipse", "hexagon", "trapezoid", "arch",
)  # fmt: skip


def any_shape(pen: Pen, rng: random.Random) -> None:
    """A figure of any kind."""
    shape(pen, rng, rng.choice(SHAPES))


def clock(pen: Pen, rng: random.Random, hour: int) -> None:
    """A clock face at a full hour."""
    r = rng.uniform(46, 56)
    pen.ellipse(_box(MIDDLE, MIDDLE, r), outline=255, width=rng.randint(3, 7))
    for turn, length, width in (
        (0.0, 0.85, rng.randint(4, 6)),
        (hour / 12, rng.uniform(0.5, 0.62), rng.randint(8, 12)),
    ):
        tip = (MIDDLE + r * length * math.sin(TAU * turn), MIDDLE - r * length * math.cos(TAU * turn))
        pen.line([(MIDDLE, MIDDLE), tip], fill=255, width=width)


SEGMENTS = (0x3F, 0x06, 0x5B, 0x4F, 0x66, 0x6D, 0x7D, 0x07, 0x7F, 0x6F, 0x77, 0x7C, 0x39, 0x5E, 0x79, 0x71)


def seven_segments(pen: Pen, rng: random.Random, digit: int) -> None:
    """A hexadecimal digit of a seven-segment display; bit i of its code lights segment a, b, ... g."""
    width, gap = rng.randint(8, 15), rng.randint(2, 5)
    left, right, top, bottom = 34, 86, 12, 108
    middle = (top + bottom) // 2
    segments = (
        (left + gap, top, right - gap, top),
        (right, top + gap, right, middle - gap),
        (right, middle + gap, right, bottom),
        (left + gap, bottom, right - gap, bottom),
        (left, middle + gap, left, bottom),
        (left, top + gap, left, middle - gap),
        (left + gap, middle, right - gap, middle),
    )
    for i, ends in enumerate(segments):
        if SEGMENTS[digit] >> i & 1:
            pen.line(ends, fill=255, width=width)


def position(pen: Pen, rng: random.Random, cell: int) -> None:
    """A small mark in one cell of a three-by-three grid, numbered by rows."""
    x, y = 24 + 36 * (cell % 3) + rng.uniform(-6, 6), 24 + 36 * (cell // 3) + rng.uniform(-6, 6)
    r = rng.uniform(9, 15)
    match rng.randrange(4):
        case 0:
            pen.ellipse(_box(x, y, r), fill=255)
        case 1:
            pen.rectangle(_box(x, y, r), fill=255)
        case 2:
            pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=255)
        case _:
            pen.line([(x - r, y - r), (x + r, y + r)], fill=255, width=6)
            pen.line([(x - r, y + r), (x + r, y - r)], fill=255, width=6)


DIAGONAL, ANTIDIAGONAL, SIDES = [(-1, -1), (1, 1)], [(-1, 1), (1, -1)], [(-1, 0), (1, 0)]
PIPS: dict[int, list[tuple[int, int]]] = {
    1: [(0, 0)],
    2: DIAGONAL,
    3: [*DIAGONAL, (0, 0)],
    4: [*DIAGONAL, *ANTIDIAGONAL],
    5: [*DIAGONAL, *ANTIDIAGONAL, (0, 0)],
    6: [*DIAGONAL, *ANTIDIAGONAL, *SIDES],
}


def die(pen: Pen, rng: random.Random, pips: int) -> None:
    """The face of a die."""
    r = rng.uniform(44, 52)
    pen.rounded_rectangle(_box(MIDDLE, MIDDLE, r), radius=rng.uniform(4, 16), fill=255)
    size, step, mirror = rng.uniform(8, 11), 0.55 * r, rng.choice((-1, 1))
    for x, y in PIPS[pips]:
        pen.ellipse(_box(MIDDLE + mirror * x * step, MIDDLE + y * step, size), fill=0)


def dots(pen: Pen, rng: random.Random, count: int) -> None:
    """Scattered dots or squares, to be counted."""
    r, draw = rng.uniform(9.5, 13), rng.choice((pen.ellipse, pen.rectangle))
    for cell in rng.sample(range(9), count):
        draw(_box(24 + 36 * (cell % 3) + rng.uniform(-4, 4), 24 + 36 * (cell // 3) + rng.uniform(-4, 4), r), fill=255)


@dataclass(frozen=True)
class Drawing:
    """Draws one class by calling `draw(pen, rng, *arguments)`."""

    draw: Callable[..., None]
    arguments: tuple[Any, ...] = ()

    def __call__(self, rng: random.Random, split: SplitName) -> Mask:
        """A mask (SIDE, SIDE): the same kind of drawing in every split, a new one at every call."""
        image = Image.new("L", (CANVAS, CANVAS))
        self.draw(ImageDraw.Draw(image), rng, *self.arguments)
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.uint8)


@dataclass(frozen=True)
class Grating:
    """Draws stripes, smooth or sharp, in one of `count` directions."""

    direction: int
    count: int

    def __call__(self, rng: random.Random, split: SplitName) -> Mask:
        """A mask (SIDE, SIDE)."""
        angle = math.pi * self.direction / self.count + rng.uniform(-0.08, 0.08)
        y, x = np.mgrid[0:SIDE, 0:SIDE]
        wave = np.sin(rng.uniform(0.5, 1.1) * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, TAU))
        if rng.random() < 0.5:
            wave = np.sign(wave)
        return ((wave + 1) * 127).astype(np.uint8)
