"""Renders masks as images: a light shape on a darker, textured background, slightly rotated, scaled and shifted."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

IMAGE = 28  # side of an image in pixels
PALETTE = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220), "yellow": (235, 220, 50),
    "purple": (140, 50, 170), "orange": (245, 140, 30), "pink": (245, 150, 190), "brown": (150, 95, 50),
    "white": (245, 245, 245),
    "gray": (150, 150, 150), "cyan": (60, 210, 220),
}  # fmt: skip
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])
Texture = Literal["plain", "gradient", "checks", "clouds", "stripes"]


@dataclass(frozen=True)
class Style:
    """The style of a domain. Amplitudes are fractions of full brightness."""

    texture: Texture = "plain"
    noise: float = 0.03
    clutter: float = 0.0  # probability of each of two stray lines
    gray: bool = False
    ground: tuple[float, float, float] | None = None  # background colour; None: random
    turn: float = 8.0  # largest rotation in degrees, in both directions
    shrink: float = 0.85  # smallest scale; the largest is 1.1
    shear: float = 0.06
    shift: float = 0.04  # largest shift, relative to half a side


def colours(indices: Tensor) -> Tensor:
    """The palette's colours (N, 3) in [0, 1]."""
    return torch.tensor(list(PALETTE.values()))[indices] / 255


def _luminance(colour: Tensor) -> Tensor:
    return (colour * LUMINANCE).sum(1, keepdim=True)


def _place(masks: Tensor, style: Style, upright: bool, generator: Generator) -> Tensor:
    """Masks (N, 1, S, S) under random affine maps (N, 1, IMAGE, IMAGE); `upright` classes are rotated less."""
    count = len(masks)

    def spread(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * 2 - 1

    calm = 0.25 if upright else 1.0
    angle = spread() * style.turn * calm * math.pi / 180
    shear = spread() * style.shear * calm
    middle = (1.1 + style.shrink) / 2
    zoom = 1 / (middle + spread() * (1.1 - middle))
    shift = spread(2) * style.shift
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack([cos * zoom, (shear - sin) * zoom, shift[:, 0]], 1),
        torch.stack([sin * zoom, cos * zoom, shift[:, 1]], 1),
    )
    grid = affine_grid(torch.stack(rows, 1), [count, 1, IMAGE, IMAGE], align_corners=False)
    return grid_sample(masks, grid, align_corners=False)


def _texture(style: Style, count: int, generator: Generator) -> Tensor:
    """Brightness (N, 1, IMAGE, IMAGE) added to the background."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, IMAGE)] * 2, indexing="ij")
    angle, frequency, phase = torch.rand(3, count, 1, 1, generator=generator) * torch.tensor(
        [math.tau, 4, math.tau]
    ).view(3, 1, 1, 1)
    along = angle.cos() * x + angle.sin() * y
    frequency = frequency + 3
    match style.texture:
        case "gradient":
            brightness = 0.25 * along
        case "checks":
            brightness = 0.13 * torch.sign(torch.sin(2 * frequency * x + phase) * torch.sin(2 * frequency * y))
        case "clouds":
            coarse = torch.randn(count, 1, 5, 5, generator=generator)
            return 0.13 * interpolate(coarse, size=(IMAGE, IMAGE), mode="bicubic")
        case "stripes":
            brightness = 0.12 * torch.sin(2.5 * frequency * along + phase)
        case "plain":
            brightness = torch.zeros(count, IMAGE, IMAGE)
    return brightness[:, None]


def _clutter(picture: Tensor, probability: float, generator: Generator) -> Tensor:
    """Up to two thin stray lines, half transparent."""
    count = len(picture)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, IMAGE)] * 2, indexing="ij")
    for _ in range(2):
        drawn = torch.rand(count, 1, 1, generator=generator) < probability
        px, py, turn = torch.rand(3, count, 1, 1, generator=generator)
        angle = turn * math.tau
        distance = ((x - 2 * px + 1) * angle.cos() + (y - 2 * py + 1) * angle.sin()).abs()
        opacity = 0.5 * (drawn & (distance < 0.05)).float()[:, None]
        colour = colours(torch.randint(len(PALETTE), (count,), generator=generator))[:, :, None, None]
        picture = picture * (1 - opacity) + colour * opacity
    return picture


def render(
    masks: Tensor, ink: Tensor, style: Style, generator: Generator, *, upright: bool, faithful: bool = False
) -> Tensor:
    """Images uint8 (N, 3, IMAGE, IMAGE).

    Args:
        masks: uint8 (N, S, S), 255 where there is ink.
        ink: indices (N,) into the palette.
        style: the style.
        generator: the only source of randomness.
        upright: direction matters, so rotate less.
        faithful: colour matters, so keep the ink's colour and darken the background instead.
    """
    count = len(masks)

    def jitter() -> Tensor:
        return (torch.rand(count, 3, generator=generator) - 0.5) * 0.2

    light = colours(ink) + jitter()
    anywhere = colours(torch.randint(len(PALETTE), (count,), generator=generator))
    dark = (anywhere if style.ground is None else torch.tensor([style.ground])) + jitter()
    if style.gray:
        light, dark = _luminance(light).expand(-1, 3), _luminance(dark).expand(-1, 3)
    dark = 0.45 * dark.clamp(0, 1)
    contrast = 0.35 + 0.2 * torch.rand(count, 1, generator=generator)
    if faithful:
        allowed = (_luminance(light) - contrast).clamp(min=0.02)
        dark = dark * (allowed / _luminance(dark).clamp(min=1e-3)).clamp(max=1)
    else:
        light = (light + (_luminance(dark) + contrast - _luminance(light)).clamp(min=0)).clamp(0, 1)
    ground = dark[:, :, None, None] + _texture(style, count, generator)
    ground = _clutter(ground, style.clutter, generator)
    figure = _place(masks[:, None].float() / 255, style, upright, generator)
    picture = ground * (1 - figure) + light[:, :, None, None] * figure
    strength = style.noise * (0.5 + torch.rand(count, 1, 1, 1, generator=generator))
    picture = picture + strength * torch.randn(count, 3, IMAGE, IMAGE, generator=generator)
    return (picture.clamp(0, 1) * 255).to(torch.uint8)
