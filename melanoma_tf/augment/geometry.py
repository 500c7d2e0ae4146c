"""Geometric maps: the eight symmetries of a square, and matrices of affine maps.

Matrices are f32[B,3,3] and map output positions to input positions: (x, y, 1) in pixels from the image center, x to the
right, y down. So `product(first, second)` is the map of an image that goes through `first` and then `second`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

TRANSPOSE, FLIP_ROWS, FLIP_COLUMNS = 4, 2, 1  # bits of a symmetry; 0 is the identity

# --------------------------------------------------------------------------------------------------- symmetries


def dihedral(images: Any, symmetry: Any) -> Any:
    """Flips and transposes each image by its own symmetry of the square.

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


def flip(images: Any, mask: Any, axes: int | None) -> Any:
    """Flips selected images along an axis of [B,H,W,C], or transposes them.

    Args:
      images: [B,H,W,C], any dtype.
      mask: bool[B], the images to flip.
      axes: 1 or 2; None transposes rows and columns.

    Returns:
      Like `images`.
    """
    moved = ops.transpose(images, (0, 2, 1, 3)) if axes is None else ops.flip(images, axis=axes)
    # Two axes, because TensorFlow's CPU kernel broadcasts over four at a quarter of the speed.
    flat = ops.where(mask[:, None], _flatten(moved), _flatten(images))
    return ops.reshape(flat, ops.shape(images))


def _flatten(images: Any) -> Any:
    shape = ops.shape(images)
    return ops.reshape(images, (-1, shape[1] * shape[2] * shape[3]))


def _tables() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Matrices f32[8,3,3] of the symmetries, and i32[8,8] the symmetry of the first followed by the second."""
    linear = []
    for symmetry in range(8):
        rows, columns = -1.0 if symmetry & FLIP_ROWS else 1.0, -1.0 if symmetry & FLIP_COLUMNS else 1.0
        diagonal = np.diag([columns, rows])
        linear.append(diagonal[::-1] if symmetry & TRANSPOSE else diagonal)
    composed = [[int(np.argmin([abs(a @ b - c).sum() for c in linear])) for b in linear] for a in linear]
    matrices = np.tile(np.eye(3, dtype=np.float32), (8, 1, 1))
    matrices[:, :2, :2] = linear
    return matrices, np.array(composed, np.int32)


_MATRICES, _COMPOSED = _tables()


def symmetry_matrix(symmetry: Any) -> Any:
    """Matrices f32[B,3,3] of symmetries i32[B]."""
    return ops.take(ops.convert_to_tensor(_MATRICES), symmetry, axis=0)


def compose(first: Any, second: Any) -> Any:
    """Symmetries i32[B] equal to `first` followed by `second`."""
    return ops.take(ops.convert_to_tensor(_COMPOSED.reshape(-1)), first * 8 + second, axis=0)


def inverse(symmetry: Any) -> Any:
    """Symmetries i32[B] that undo `symmetry`."""
    return ops.take(ops.convert_to_tensor(_COMPOSED.argmin(axis=1).astype(np.int32)), symmetry, axis=0)  # 0 is identity


# ------------------------------------------------------------------------------------------------- affine maps


def matrix(rotate: Any, shear: Any, zoom_x: Any, zoom_y: Any, shift_x: Any, shift_y: Any) -> Any:
    """Matrix of a zoom, shear, rotation and shift, applied to the image in this order.

    Args:
      rotate: f32[B], degrees counter-clockwise.
      shear: f32[B], degrees; positive moves the upper half to the right.
      zoom_x: f32[B], factor; above 1 enlarges.
      zoom_y: f32[B], factor; above 1 enlarges.
      shift_x: f32[B], pixels to the right.
      shift_y: f32[B], pixels down.

    Returns:
      f32[B,3,3].
    """
    degree = math.pi / 180.0
    cos, sin, tan = ops.cos(rotate * degree), ops.sin(rotate * degree), ops.tan(shear * degree)
    zero, one = ops.zeros_like(rotate), ops.ones_like(rotate)
    # From output to input: the inverse of each step, in reverse order.
    unshift = rows([[one, zero, -shift_x], [zero, one, -shift_y], [zero, zero, one]])
    unrotate = rows([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])
    unshear = rows([[one, tan, zero], [zero, one, zero], [zero, zero, one]])
    unzoom = rows([[1.0 / zoom_x, zero, zero], [zero, 1.0 / zoom_y, zero], [zero, zero, one]])
    return product(unzoom, product(unshear, product(unrotate, unshift)))


def product(first: Any, second: Any) -> Any:
    """Matrix product f32[B,I,J] of f32[B,I,K] and f32[B,K,J]."""
    # Not ops.matmul, which rounds to bfloat16 on a TPU.
    return ops.sum(first[:, :, :, None] * second[:, None, :, :], axis=2)


def rows(entries: Sequence[Sequence[Any]]) -> Any:
    """Batch of matrices f32[B,rows,columns] from entries f32[B] in nested lists."""
    return ops.stack([ops.stack(list(row), axis=-1) for row in entries], axis=-2)
