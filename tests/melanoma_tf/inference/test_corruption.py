"""Corruptions: each changes pixels as stated, by the name of the image only; and the scores of a run under them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from melanoma_tf.inference import corruption
from melanoma_tf.inference.corruption import CORRUPTIONS, KINDS, Corruption

RNG = np.random.default_rng(0)
SHARP = RNG.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
SMOOTH = ndimage.zoom(RNG.uniform(60, 200, (3, 6, 6, 3)), (1, 64 / 6, 64 / 6, 1), order=1).round().astype(np.uint8)
SEEDS = np.arange(3, dtype=np.uint32) + np.uint32(4_000_000_000)


@pytest.mark.parametrize("each", CORRUPTIONS, ids=lambda each: f"{each.kind} {each.level:g}")
def test_each_changes_pixels_and_nothing_else_and_depends_on_the_seed_of_the_image_only(each):
    before = SHARP.copy()
    found = each(SHARP, SEEDS)
    assert (found.shape, found.dtype) == (SHARP.shape, np.uint8)
    assert (found != SHARP).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(SHARP, before)
    np.testing.assert_array_equal(each(SHARP[1:], SEEDS[1:]), found[1:])
    drawn = not np.array_equal(each(SHARP, SEEDS + np.uint32(1)), found)
    assert drawn == (each.kind in ("hair", "ink", "ruler marks"))


IDENTITIES = [Corruption(name, kind.identity) for name, kind in KINDS.items() if kind.identity is not None]


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda each: each.kind)
def test_the_level_that_changes_nothing_gives_the_same_bytes(identity):
    np.testing.assert_array_equal(identity(SHARP, SEEDS), SHARP)


def test_most_kinds_have_such_a_level():
    assert {each.kind for each in IDENTITIES} == set(KINDS) - {"hair", "ink", "JPEG"}


def test_levels_are_in_order_and_have_labels_of_their_own():
    for kind in KINDS.values():
        assert list(kind.levels) in (sorted(kind.levels), sorted(kind.levels, reverse=True))
    labels = [(each.kind, each.severity) for each in CORRUPTIONS]
    assert len(set(labels)) == len(labels)
    assert ("color cast", "red +10%, blue -10%") in labels


def test_levels_are_what_they_say():
    bright = corruption.brightness(SMOOTH, SEEDS, 0.2)
    np.testing.assert_array_equal(bright, np.clip(SMOOTH + 51.0, 0, 255))
    warm = corruption.color_cast(SMOOTH, SEEDS, 0.1).astype(float)
    np.testing.assert_allclose(warm, np.clip(SMOOTH * [1.1, 1.0, 0.9], 0, 255), atol=0.51)
    blurred = corruption.blur(SMOOTH, SEEDS, 0.02)  # 1.28 pixels
    expected = ndimage.gaussian_filter(SMOOTH.astype(float), (0, 1.28, 1.28, 0), radius=(0, 4, 4, 0))
    np.testing.assert_allclose(blurred, expected, atol=0.51)
    corners = corruption.dark_corners(SMOOTH, SEEDS, 0.5)
    assert corners[:, [0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
    np.testing.assert_array_equal(corners[:, 16:48, 16:48], SMOOTH[:, 16:48, 16:48])


def test_a_zoom_enlarges_about_the_center():
    """A square of 12 pixels in the middle of 64 has 18 times 18 pixels after a zoom of 1.5, and its center stays."""
    black = np.zeros((1, 64, 64, 3), np.uint8)
    black[:, 26:38, 26:38] = 200
    found = corruption.zoom(black, SEEDS[:1], 1.5)[0, ..., 0].astype(float)
    assert found.sum() == pytest.approx(200 * 18**2, rel=0.01)
    np.testing.assert_allclose(ndimage.center_of_mass(found), [31.5, 31.5], atol=0.05)


def test_jpeg_is_that_of_another_encoder_and_worse_at_lower_quality():
    errors = []
    for quality in (90, 20, 10):
        found = corruption.jpeg(SMOOTH, SEEDS, quality)
        file = io.BytesIO()
        Image.fromarray(SMOOTH[0]).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        pillows = np.asarray(Image.open(file)).astype(float)
        assert np.abs(found[0] - pillows).mean() < 1  # the same library, other versions of it
        errors.append(np.abs(found.astype(float) - SMOOTH).mean())
    assert errors == sorted(errors)
