"""Skin tone estimated from the border of an image: the individual typology angle, with a large error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Lower ends in degrees (Chardon, Cretois & Hourseau 1991; Del Bino & Bernerd 2013), lightest first.
CLASSES = {"very light": 55, "light": 41, "intermediate": 28, "tan": 10, "brown": -30, "dark": -90}
UNKNOWN = "unknown"
_SIDE = 64  # pixels to which images are decoded at least
_RING = (0.4, 0.5)  # radii of the border, as fractions of the side: inside the dark corners, outside most lesions
_BLACK = 15.0  # L* of what no light reaches: beyond the round border of a dermoscope
_LEAST = 0.1  # of the ring's pixels

# sRGB to XYZ (IEC 61966-2-1), and the white point D65 of the 2 degree observer.
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(rgb: ArrayLike) -> Floats:
    """Converts sRGB to CIELAB under D65 (IEC 61966-2-1; CIE 15).

    Args:
      rgb: [...,3] in 0 to 255.

    Returns:
      [...,3]: L* in 0 to 100, a*, b*.
    """
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def angle(lightness: ArrayLike, yellowness: ArrayLike) -> Floats:
    """Individual typology angle arctan((L* - 50) / b*) in degrees (Chardon, Cretois & Hourseau 1991).

    Args:
      lightness: L*, [...].
      yellowness: b*, [...].

    Returns:
      [...] in -90 to 90; NaN where b* is not positive, which is the color of a light and not of skin.
    """
    light, yellow = np.asarray(lightness, np.float64), np.asarray(yellowness, np.float64)
    return np.where(yellow > 0, np.degrees(np.arctan2(light - 50, yellow)), np.nan)


def of_pixels(image: NDArray[np.uint8]) -> float:
    """Estimates the angle from the border of an image, where there is skin rather than the lesion.

    Medians of L* and b* over a ring that touches the edges, without what is black; hairs and ink stay in the minority.

    Args:
      image: u8[H,W,3].

    Returns:
      Degrees; NaN where less than a tenth of the ring is lit, or its color is not one of skin.
    """
    rows, columns = (np.abs((np.arange(n) + 0.5) / n - 0.5) for n in image.shape[:2])
    radius = np.hypot(rows[:, None], columns)
    colors = lab(image[(radius > _RING[0]) & (radius < _RING[1])])
    lit = colors[colors[:, 0] >= _BLACK]
    if len(lit) < _LEAST * len(colors):
        return float("nan")
    lightness, _, yellowness = np.median(lit, axis=0)
    return float(angle(lightness, yellowness))


def of_jpeg(jpeg: bytes) -> float:
    """Estimates the angle from the border of a JPEG, see `of_pixels`."""
    # A fast, reduced decode: means of some pixels, with less of the hairs.
    return of_pixels(simplejpeg.decode_jpeg(jpeg, min_height=_SIDE, min_width=_SIDE))


def classify(angles: ArrayLike) -> pd.Series:
    """Returns the class of each angle [N] as categories, lightest first; `unknown` where there is none."""
    names = list(CLASSES)[::-1]
    edges = [-90.001, *sorted(CLASSES.values())[1:], 90.001]
    # Del Bino & Bernerd: a class is above its lower end, up to and with its upper one.
    found = pd.Series(pd.cut(np.asarray(angles, np.float64), edges, labels=names, right=True))
    return found.cat.add_categories(UNKNOWN).fillna(UNKNOWN).cat.reorder_categories([*CLASSES, UNKNOWN])
