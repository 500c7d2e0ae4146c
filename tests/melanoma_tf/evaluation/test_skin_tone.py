"""Estimated skin tone against scikit-image's CIELAB, closed forms, and images made for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from melanoma_tf.evaluation import build_images, skin_tone
from tfrecord_tools import schema

SKIN, LESION, HAIR = (224, 172, 140), (90, 50, 30), (30, 20, 15)

# skimage.color.rgb2lab of scikit-image 0.26.0, rounded to four digits.
SCIKIT_IMAGE = {
    (255, 0, 0): (53.2406, 80.0923, 67.2028),
    (0, 255, 0): (87.7351, -86.1830, 83.1797),
    (0, 0, 255): (32.2957, 79.1856, -107.8573),
    SKIN: (74.3485, 14.8059, 23.8088),
    (141, 85, 36): (41.6711, 18.9050, 37.2399),
    (60, 40, 30): (18.2419, 7.8633, 10.3177),
    (3, 5, 8): (1.3136, -0.1060, -1.3194),
}


@pytest.mark.parametrize("rgb", SCIKIT_IMAGE)
def test_colors_are_scikit_images(rgb):
    np.testing.assert_allclose(skin_tone.lab(rgb), SCIKIT_IMAGE[rgb], atol=0.02)  # it has fewer digits of the matrix


def test_grey_has_no_color_and_its_lightness_is_that_of_its_luminance():
    grey = np.arange(256)
    found = skin_tone.lab(np.stack([grey] * 3, axis=-1))
    linear = np.array([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in grey / 255])
    expected = np.where(linear > 216 / 24389, 116 * np.cbrt(linear) - 16, 24389 / 27 * linear)  # CIE 15
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)
    assert np.abs(found[:, 1:]).max() < 0.02


def test_the_angle_in_closed_form():
    np.testing.assert_allclose(skin_tone.angle([60, 50, 40], [10, 20, 10]), [45, 0, -45])
    np.testing.assert_allclose(skin_tone.angle(50 + 10 * np.sqrt(3), 10), 60)
    assert np.isnan(skin_tone.angle([70, 70], [0, -5])).all()


def test_classes_end_where_the_literature_says():
    angles = [90, 55.1, 55, 41.1, 41, 28.1, 28, 10.1, 10, -29.9, -30, -90, np.nan]
    found = skin_tone.classify(angles)
    assert found.tolist() == [
        "very light", "very light", "light", "light", "intermediate", "intermediate", "tan", "tan", "brown", "brown",
        "dark", "dark", "unknown",
    ]  # fmt: skip
    assert list(found.cat.categories) == ["very light", "light", "intermediate", "tan", "brown", "dark", "unknown"]


def image(size=96):
    """Skin with a lesion in the middle."""
    y, x = np.mgrid[:size, :size]
    radius = np.hypot(y - (size - 1) / 2, x - (size - 1) / 2) / size
    pixels = np.where((radius < 0.25)[..., None], LESION, SKIN).astype(np.uint8)
    return pixels, radius


def test_neither_lesion_nor_dark_corners_nor_hairs_count():
    expected = float(skin_tone.angle(*skin_tone.lab(SKIN)[[0, 2]]))
    assert expected == pytest.approx(45.65, abs=0.02)  # arctan((74.3485 - 50) / 23.8088)
    pixels, radius = image()
    assert skin_tone.of_pixels(pixels) == pytest.approx(expected)
    pixels[radius > 0.5] = 0
    pixels[::6] = HAIR
    assert skin_tone.of_pixels(pixels) == pytest.approx(expected)
    assert np.isnan(skin_tone.of_pixels(np.zeros((96, 96, 3), np.uint8)))
    assert np.isnan(skin_tone.of_pixels(np.full((96, 96, 3), (120, 140, 200), np.uint8)))


def test_images_of_a_build_are_classified_by_name(monkeypatch):
    dark = np.full((96, 96, 3), (60, 40, 30), np.uint8)
    images = {"a": image()[0], "b": dark, "c": image()[0]}
    records = [
        schema.Record(simplejpeg.encode_jpeg(pixels, quality=95), name, -1, -1, -1, -1, "", 96, 96, 0, 0, "", b"")
        for name, pixels in images.items()
    ]
    monkeypatch.setattr(build_images, "records", lambda folder: iter(records))
    table = pd.DataFrame({"image_name": ["b", "absent", "a"]}, index=[5, 6, 7])
    found = build_images.Build("DIR", table).skin_tones(table)
    assert found.to_dict() == {5: "dark", 6: "unknown", 7: "light"}
