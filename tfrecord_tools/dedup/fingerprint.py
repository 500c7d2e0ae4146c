"""Fingerprints: grey thumbnails of the center square of an image, and its eight mirrorings and quarter turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tfrecord_tools.imaging import convert

Fingerprint = npt.NDArray[np.uint8]  # [32, 32]: 1 KB an image
COARSE, FINE = 32, 64  # pixels: thumbnails of fingerprints, and of the last step of a comparison

# Word for each operation that makes the second image of the first. Bit 2 of the index: transpose, applied first; bit 0:
# mirror left to right; bit 1: mirror top to bottom.
SYMMETRIES = (
    "same",
    "mirrored",
    "mirrored top to bottom",
    "turned 180",
    "transposed",
    "turned 90 clockwise",
    "turned 90 counterclockwise",
    "transposed across",
)


class DuplicatesError(ValueError):
    """Images that cannot be compared; the message names them and the reason."""


def fingerprint(image: bytes) -> Fingerprint:
    """Grey thumbnail u8[32,32] of an image's center square.

    Raises:
      DuplicatesError: the image cannot be decoded.
    """
    return thumbnail(image, COARSE)


def fingerprint_of(image: Image.Image) -> Fingerprint:
    """Fingerprint of an image that is already decoded."""
    return _shrink(image, COARSE)


def thumbnail(image: bytes, size: int) -> Fingerprint:
    """Grey thumbnail u8[size,size] of an image's center square.

    Raises:
      DuplicatesError: the image cannot be decoded.
    """
    try:
        return _shrink(convert.preview(image, "L", 2 * size), size)
    except convert.ImageRejectedError as error:
        raise DuplicatesError(str(error)) from error


def _shrink(image: Image.Image, size: int) -> Fingerprint:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    grey = image if image.mode == "L" else image.convert("L")
    box = (left, top, left + side, top + side)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))


def transform(images: npt.NDArray[Any], symmetry: int) -> npt.NDArray[Any]:
    """Applies SYMMETRIES[symmetry] to images [...,s,s]."""
    if symmetry & 4:
        images = np.swapaxes(images, -1, -2)
    if symmetry & 1:
        images = images[..., ::-1]
    if symmetry & 2:
        images = images[..., ::-1, :]
    return images
