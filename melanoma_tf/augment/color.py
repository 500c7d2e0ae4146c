"""Colour changes as one affine map of RGB per image: one pass over the pixels whatever the number of changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

# RGB -> YIQ (NTSC 1953; Y is the luma of ITU-R BT.601). Hue turns the I-Q plane and keeps Y.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_RGB = np.linalg.inv(_YIQ).astype(np.float32)
_MIDDLE = 0.5  # contrast turns about mid-grey: a fixed point needs no pass over the pixels for their mean


def matrix(brightness: Any, contrast: Any, saturation: Any, hue: Any) -> Any:
    """One 3x4 matrix per image: hue, then saturation, contrast and brightness, in this order.

    Args:
      brightness: f32[B], added to each channel of an image in [0,1].
      contrast: f32[B], factor about mid-grey.
      saturation: f32[B], factor of the distance from the pixel's luma (Haeberli & Voorhies 1994).
      hue: f32[B], turns of the I-Q plane, so 0.5 is the opposite hue.

    Returns:
      f32[B,3,4]; apply with `transform`.
    """
    angle = 2.0 * math.pi * hue
    cos, sin, zero, one = ops.cos(angle), ops.sin(angle), ops.zeros_like(hue), ops.ones_like(hue)
    turn = _rows(
        [[one, zero, zero], [zero, saturation * cos, -saturation * sin], [zero, saturation * sin, saturation * cos]]
    )
    linear = ops.einsum("ij,bjk,kl->bil", _RGB, turn, _YIQ) * contrast[:, None, None]
    offset = brightness + (1.0 - contrast) * _MIDDLE
    return ops.concatenate([linear, ops.tile(offset[:, None, None], (1, 3, 1))], axis=2)


def transform(images: Any, matrices: Any) -> Any:
    """images: float[B,H,W,3] in [0,1]; matrices: f32[B,3,4]. Returns float[B,H,W,3] clipped to [0,1]."""
    shape = ops.shape(images)
    pixels = ops.reshape(images, (-1, shape[1] * shape[2], 3))
    linear = ops.transpose(matrices[:, :, :3], (0, 2, 1))
    changed = ops.matmul(pixels, linear) + matrices[:, None, :, 3]
    return ops.clip(ops.reshape(changed, shape), 0.0, 1.0)


def _rows(rows: list[list[Any]]) -> Any:
    return ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
