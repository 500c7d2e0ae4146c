"""Saliency maps drawn over images."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Viridis (Smith & van der Walt, CC0) in ten stops: lightness rises in equal steps, for any color vision and in print.
# Blue, green and yellow also stand out from skin, which inferno's red and orange do not.
VIRIDIS = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725")
_STOPS = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in VIRIDIS], np.float32)
OPACITY = 0.65  # where the map is highest; where it is 0, the image is as it was
_TINY = float(np.finfo(np.float32).tiny)
_NINTHS = (
    ("upper left", "top", "upper right"),
    ("left", "center", "right"),
    ("lower left", "bottom", "lower right"),
)


class Overlay(NamedTuple):
    """A map over an image.

    Attributes:
      png: bytes of the image with the map.
      text: what the map shows, in words.
    """

    png: bytes
    text: str


def draw(image: NDArray[np.uint8], saliency: NDArray[np.float32], *, against: bool = False) -> Overlay:
    """Draws over an image what raised its prediction, or what lowered it.

    Args:
      image: u8[H,W,3].
      saliency: f32[h,w], positive where it raised the prediction; enlarged bilinearly to the image. Its scale is its
        largest absolute value, so that what raised and what lowered one prediction compare.
      against: whether to draw what lowered it.
    """
    height, width, _ = image.shape
    drawn, verb = np.maximum(-saliency if against else saliency, 0), "lowered" if against else "raised"
    relative = (drawn / max(float(np.abs(saliency).max()), _TINY)).astype(np.float32)
    values = np.asarray(Image.fromarray(relative).resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    opacity = OPACITY * values[..., None]
    blended = (1 - opacity) * image + opacity * colors(values)
    out = io.BytesIO()
    Image.fromarray(blended.round().astype(np.uint8)).save(out, "PNG")
    text = f"{verb} the prediction most at the {place(drawn)}" if drawn.any() else f"nothing {verb} the prediction"
    return Overlay(out.getvalue(), text)


def colors(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns colors f32[...,3] in 0..255 of values f32[...] in 0..1."""
    stops = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(values, stops, channel) for channel in _STOPS.T], axis=-1).astype(np.float32)


def place(saliency: NDArray[np.float32]) -> str:
    """Returns in which ninth of the image a map is highest: "upper left", "center", "bottom"."""
    indices = np.unravel_index(int(saliency.argmax()), saliency.shape)
    row, column = (int(3 * (index + 0.5) / side) for index, side in zip(indices, saliency.shape, strict=True))
    return _NINTHS[row][column]
