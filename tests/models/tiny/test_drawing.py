"""Glyphs, drawings and rendering."""

import random

import pytest
import torch

from tsv_exp.models.tiny.catalogue import PRETRAINING_ONLY, TASKS, draw
from tsv_exp.models.tiny.drawing.glyphs import SIDE, TEST_FONTS, TRAINING_FONTS, Glyph, bitmap, fonts
from tsv_exp.models.tiny.drawing.render import IMAGE, PALETTE, Style, colours, render

EVERYTHING = {**{f"task {k}": v for k, v in TASKS.items()}, **PRETRAINING_ONLY}


def test_twenty_tasks_with_318_classes() -> None:
    assert len(TASKS) == 20
    assert sum(len(subject.classes) for subject in TASKS.values()) == 318


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_class_can_be_drawn_and_two_classes_differ(name: str) -> None:
    subject = EVERYTHING[name]
    labels = torch.arange(len(subject.classes))
    masks = draw(subject, labels, "test", random.Random(0))
    assert masks.shape == (len(labels), SIDE, SIDE)
    assert masks.dtype == torch.uint8
    assert (masks.flatten(1).amax(1) > 100).all()
    if not subject.coloured:
        assert len(torch.unique(masks.flatten(1), dim=0)) == len(labels)


def test_test_fonts_are_never_trained_on() -> None:
    assert not set(TRAINING_FONTS) & set(TEST_FONTS)
    for subject in EVERYTHING.values():
        for drawer in subject.classes.values():
            for character in drawer.characters if isinstance(drawer, Glyph) else "":
                assert set(fonts(character, "train")) <= set(TRAINING_FONTS)
                assert fonts(character, "train") == fonts(character, "validation")


def test_every_letter_of_a_task_is_tested_in_fonts_it_was_not_trained_in() -> None:
    for name in ("greek", "cyrillic", "hebrew", "arabic", "armenian", "zodiac", "latin", "georgian"):
        for drawer in TASKS[name].classes.values():
            assert isinstance(drawer, Glyph)
            assert not set(fonts(drawer.characters, "test")) & set(fonts(drawer.characters, "train"))


def test_glyphs_fit_their_mask() -> None:
    ink = torch.from_numpy(bitmap("W", "DejaVuSans-Bold").copy())
    assert ink[2:-2, 1:-1].sum() == ink.sum() > 0


def test_rendering_is_reproducible_and_the_figure_is_lighter_than_its_ground() -> None:
    mask = torch.zeros(20, SIDE, SIDE, dtype=torch.uint8)
    mask[:, 12:28, 12:28] = 255
    ink = torch.arange(20) % len(PALETTE)

    def pictures(style: Style, seed: int) -> torch.Tensor:
        return render(mask, ink, style, torch.Generator().manual_seed(seed), upright=True)

    for style in (
        Style(),
        Style("checks", clutter=1.0),
        Style("clouds", gray=True),
        Style("stripes"),
        Style("gradient"),
    ):
        first = pictures(style, 0)
        assert first.shape == (20, 3, IMAGE, IMAGE)
        assert torch.equal(first, pictures(style, 0))
        assert not torch.equal(first, pictures(style, 1))
        light = first[:, :, 12:16, 12:16].float().mean((1, 2, 3))
        dark = first[:, :, :4].float().mean((1, 2, 3))
        assert (light > dark + 15).all()


def test_faithful_ink_keeps_its_colour() -> None:
    mask = torch.full((len(PALETTE), SIDE, SIDE), 255, dtype=torch.uint8)
    ink = torch.arange(len(PALETTE))
    images = render(mask, ink, Style(noise=0.0), torch.Generator().manual_seed(0), upright=True, faithful=True)
    measured = images[:, :, 10:18, 10:18].float().mean((2, 3)) / 255
    assert (measured - colours(ink)).abs().max() < 0.11
