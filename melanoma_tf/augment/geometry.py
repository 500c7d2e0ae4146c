"""Exact geometry: the eight symmetries of a square, by moving pixels, without resampling."""

from __future__ import annotations

from typing import Any

from keras import ops

TRANSPOSE, FLIP_ROWS, FLIP_COLUMNS = 4, 2, 1  # bits of a symmetry; 0 is the identity


def dihedral(images: Any, symmetry: Any) -> Any:
    """Turns and mirrors each image by its own symmetry.

    Args:
      images: [B,H,W,C], any dtype; H = W unless no symmetry has the TRANSPOSE bit.
      symmetry: i32[B] in 0..7: TRANSPOSE swaps rows and columns, then FLIP_ROWS mirrors top and bottom, FLIP_COLUMNS
        left and right.

    Returns:
      Like `images`.
    """
    images = flip(images, ops.bitwise_and(symmetry, TRANSPOSE) > 0, axes=None)
    images = flip(images, ops.bitwise_and(symmetry, FLIP_ROWS) > 0, axes=1)
    return flip(images, ops.bitwise_and(symmetry, FLIP_COLUMNS) > 0, axes=2)


def flip(images: Any, chosen: Any, axes: int | None) -> Any:
    """Mirrors the chosen images along an axis of [B,H,W,C], or transposes them (axes=None). chosen: bool[B]."""
    moved = ops.transpose(images, (0, 2, 1, 3)) if axes is None else ops.flip(images, axis=axes)
    # Two axes: the CPU kernel of a broadcast over four is four times slower.
    flat = ops.where(chosen[:, None], _flatten(moved), _flatten(images))
    return ops.reshape(flat, ops.shape(images))


def _flatten(images: Any) -> Any:
    shape = ops.shape(images)
    return ops.reshape(images, (-1, shape[1] * shape[2] * shape[3]))
