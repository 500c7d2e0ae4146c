"""Cutout, hairs, border, blur and noise against NumPy and SciPy; mixing against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from melanoma_tf.augment import degradation, mixing, operations, random

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 20, 26, 3)).astype(np.float32)


def column(*values):
    return np.array(values, np.float32)


def stream(count=5000):
    return random.Stream(np.arange(count, dtype=np.uint32))


# ------------------------------------------------------------------------------------------------------- generator


def test_normal_numbers_are_normal_and_independent():
    one, other = (np.asarray(stream(20_000).normal(draw)) for draw in (0, 2))
    assert stats.kstest(one, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_a_field_of_normal_numbers_is_normal_and_each_examples_own():
    field = np.asarray(random.normal_field(np.arange(64, dtype=np.uint32), 4096))
    assert stats.kstest(field[::7].ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(field)
    assert np.abs(correlation - np.eye(64)).max() < 0.09  # 5.7 standard errors of 1/sqrt(4096)
    assert abs(np.corrcoef(field[:, :-1].ravel(), field[:, 1:].ravel())[0, 1]) < 0.01


# ---------------------------------------------------------------------------------------------------------- cutout


def test_cutout_covers_a_square_cut_off_at_the_edges():
    x, y, size = column(0.5, 0.0, 0.99, 0.2, 0.7, 0.5), column(0.5, 0.0, 0.1, 0.95, 0.3, 0.5), column(*[0.4] * 5, 0)
    found = np.asarray(degradation.cutout(IMAGES, x, y, size, value=0.25))
    expected = IMAGES.copy()
    for n in range(5):
        row, col = int(np.floor(y[n] * 20)), int(np.floor(x[n] * 26))
        expected[n, max(row - 4, 0) : row + 4, max(col - 4, 0) : col + 4] = 0.25  # half of 0.4 * 20 pixels
    np.testing.assert_array_equal(found, expected)


# ----------------------------------------------------------------------------------------------------- hair, border


def test_a_straight_hair_covers_a_rectangle_of_its_length_and_thickness():
    white = np.ones((1, 100, 100, 3), np.float32)
    stroke = [column(v) for v in (0.5, 0.5, 0.0, 0.0, 0.6, 0.04, 0.0)]
    found = np.asarray(degradation.arcs(white, [stroke]))[0]
    assert (1 - found).sum() / 3 == pytest.approx(60 * 4, rel=0.02)  # antialiased, so the area is exact
    inside = np.argwhere((found < 0.5).all(axis=2))
    assert np.ptp(inside[:, 0]) <= 4
    assert np.ptp(inside[:, 1]) == pytest.approx(59, abs=1)


def test_a_bent_hair_is_an_arc_and_none_is_drawn_without_thickness():
    white = np.ones((1, 200, 200, 3), np.float32)
    bent = [column(v) for v in (0.5, 0.3, 0.0, 1.0, 0.5, 0.02, 0.0)]
    dark = np.argwhere(np.asarray(degradation.arcs(white, [bent]))[0, ..., 0] < 0.5)
    radius = 200.0  # 1 / bend, below the hair's middle
    distance = np.hypot(dark[:, 0] + 0 - (0.3 * 200 + radius), dark[:, 1] - 100)
    assert np.abs(distance - radius).max() < 5
    nothing = [*bent[:5], column(0.0), bent[6]]
    np.testing.assert_array_equal(degradation.arcs(white, [nothing]), white)


def test_strokes_of_ink_are_violet_arcs_around_the_center():
    params = operations.Ink(1, p=1.0).draw(stream(6))
    white = np.ones((6, 120, 120, 3), np.float32)
    found = np.asarray(operations.Ink(1, p=1.0).apply(white, params))
    for n in range(6):
        rows, columns = np.nonzero(found[n, ..., 1] < 0.5)
        radius = np.hypot(rows - 60, columns - 60) / 120
        expected = np.hypot(params[0][0][n] - 0.5, params[0][1][n] - 0.5)
        assert len(rows) > 20
        assert np.abs(radius - expected).max() < 0.03  # half the thickness, and a parabola for the arc
        red, green, blue = found[n, rows, columns].mean(axis=0)
        assert green < red < blue


@pytest.mark.parametrize("edge", range(4))
def test_a_ruler_has_ticks_of_even_spacing_and_every_fifth_is_longer(edge):
    white = np.ones((1, 200, 200, 3), np.float32)
    shape = column(0.5), column(0.1), column(0.05)  # a tick in the middle of each 20 pixels, 10 pixels long
    found = np.asarray(degradation.ruler(white, np.array([edge], np.int32), *shape, thickness=0.01))[0]
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    from_edge = np.rot90(found[..., 0], {0: 0, 1: 1, 2: 2, 3: 3}[edge])  # the edge to the left
    assert (from_edge[:, 16:] == 1).all()
    lengths = (1 - from_edge).sum(axis=1).reshape(10, 20)
    ticks = lengths.sum(axis=1)
    assert sorted(np.round(ticks).tolist()) == [20] * 8 + [30] * 2  # two pixels thick
    assert (lengths[:, [0, 19]] == 0).all()
    np.testing.assert_allclose(lengths[:, 9], lengths[:, 10], atol=1e-3)  # pixels; coordinates are float32
    untouched = degradation.ruler(white, np.array([edge], np.int32), *shape[:2], column(0.0))
    np.testing.assert_array_equal(untouched, white)


def test_the_microscope_is_black_outside_its_circle_only():
    found = np.asarray(degradation.microscope(np.ones((1, 100, 120, 3), np.float32), column(0.4)))[0, ..., 0]
    y, x = np.mgrid[:100, :120]
    r = np.hypot(y - 49.5, x - 59.5)
    assert (found[r < 38.9] == 1).all()
    assert (found[r > 41.1] == 0).all()


# ------------------------------------------------------------------------------------------------------ blur, noise


def test_blur_is_scipys_gaussian_and_none_is_none():
    sigma = column(0.0, 0.5, 1.0, 1.5, 2.0, 0.01)
    found = np.asarray(degradation.blur(IMAGES, sigma, max_sigma=2.0))
    for n in range(6):
        expected = (
            IMAGES[n] if sigma[n] < 0.05 else ndimage.gaussian_filter(IMAGES[n], (sigma[n], sigma[n], 0), radius=5)
        )
        np.testing.assert_allclose(found[n], expected, atol=2e-6)


def test_noise_has_its_standard_deviation_and_leaves_the_mean():
    seeds, sigma = np.arange(6, dtype=np.uint32), column(0.0, 0.1, 0.1, 0.2, 0.2, 0.3)
    added = np.asarray(degradation.noise(IMAGES, seeds, sigma)) - IMAGES
    np.testing.assert_allclose(added.std(axis=(1, 2, 3)), sigma, rtol=0.08, atol=1e-6)
    assert np.abs(added.mean(axis=(1, 2, 3))).max() < 0.03


# ---------------------------------------------------------------------------------------------------------- mixing


def test_mixup_is_a_weighted_mean_of_neighbors_and_of_their_labels():
    share, targets = column(1.0, 0.25, 0.5, 0.0, 0.75, 0.5), column(1, 0, 0, 1, 0, 1)
    following = np.roll(IMAGES, -1, axis=0)
    expected = share[:, None, None, None] * IMAGES + (1 - share[:, None, None, None]) * following
    np.testing.assert_allclose(mixing.mixup(IMAGES, share), expected, atol=1e-6)
    np.testing.assert_allclose(mixing.labels(targets, share), [1, 0, 0.5, 0, 0.25, 1])


def test_cutmix_pastes_a_square_and_shares_the_label_by_area():
    x, y, size = (
        column(0.5, 0.0, 0.9, 0.5, 0.5, 0.5),
        column(0.5, 0.0, 0.5, 0.5, 0.5, 0.5),
        column(0.5, 0.5, 0.5, 0, 1, 0.1),
    )
    found, share = map(np.asarray, mixing.cutmix(IMAGES, x, y, size))
    following = np.roll(IMAGES, -1, axis=0)
    own = (found == IMAGES).all(axis=-1)
    assert ((found == following).all(axis=-1) | own).all()
    np.testing.assert_allclose(share, own.mean(axis=(1, 2)), atol=1e-6)
    assert share[3] == 1
    assert share[0] == pytest.approx(1 - 100 / 520)
