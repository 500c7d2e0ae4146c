"""Saliency maps over images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from melanoma_tf.evaluation.report import overlay

GREY = np.full((96, 96, 3), 128, np.uint8)


def pixels(drawn):
    return np.asarray(Image.open(io.BytesIO(drawn.png)))


def lightness(rgb):
    """CIE 1976 L* of sRGB in 0..255 (IEC 61966-2-1, relative to its white)."""
    linear = np.where(rgb <= 0.04045 * 255, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_lightness_rises_in_equal_steps():
    found = lightness(overlay.colors(np.linspace(0, 1, 256, dtype=np.float32)))
    assert (np.diff(found) > 0).all()
    straight = np.linspace(found[0], found[-1], 256)
    assert np.abs(found - straight).max() < 2  # of 76
    assert found[-1] - found[0] > 70


def test_color_is_where_the_map_is_and_nowhere_else():
    saliency = np.zeros((6, 6), np.float32)
    saliency[1, 4] = 0.001  # each map has a scale of its own
    drawn = overlay.draw(GREY, saliency)
    changed = (pixels(drawn) != GREY).any(axis=-1)
    assert changed[20:28, 68:76].all()
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # The cell and half of its neighbors, to which a bilinear map falls off.
    assert (rows[0] >= 8, rows[-1] < 40, columns[0] >= 56, columns[-1] < 88) == (True,) * 4
    assert drawn.text == "raised the prediction most at the upper right"


def test_the_highest_parts_are_yellow_and_the_image_shows_through():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = pixels(overlay.draw(noise, np.full((4, 4), 7, np.float32)))
    yellow = np.array([0xFD, 0xE7, 0x25])
    np.testing.assert_allclose(found, noise + overlay.OPACITY * (yellow - noise.astype(float)), atol=0.51)


def test_what_raised_and_what_lowered_share_a_scale():
    saliency = np.zeros((3, 3), np.float32)
    saliency[0, 0], saliency[1, 1] = 1.0, -4.0
    raised, lowered = overlay.draw(GREY, saliency), overlay.draw(GREY, saliency, against=True)
    assert (raised.text, lowered.text) == (
        "raised the prediction most at the upper left",
        "lowered the prediction most at the center",
    )
    weak, strong = (np.abs(pixels(each).astype(int) - 128).max() for each in (raised, lowered))
    assert strong > 1.5 * weak > 0
    assert (pixels(raised)[64:, 64:] == 128).all()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_of_nothing_leaves_the_image_and_says_so(value):
    drawn = overlay.draw(GREY, np.full((4, 4), value, np.float32))
    np.testing.assert_array_equal(pixels(drawn), GREY)
    assert drawn.text == "nothing raised the prediction"


@pytest.mark.parametrize(
    ("shape", "at", "expected"),
    [
        ((3, 3), (0, 0), "upper left"),
        ((3, 3), (1, 1), "center"),
        ((12, 12), (11, 6), "bottom"),
        ((4, 4), (1, 3), "right"),
        ((4, 4), (1, 2), "center"),
        ((1, 1), (0, 0), "center"),
    ],
)
def test_the_place_of_the_maximum_in_words(shape, at, expected):
    saliency = np.zeros(shape, np.float32)
    saliency[at] = 1
    assert overlay.place(saliency) == expected
