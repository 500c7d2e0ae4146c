"""Color changes as one affine map of RGB per image, applied in one pass over the pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment.geometry import product, rows

# RGB -> YIQ (NTSC 1953; Y is the luma of ITU-R BT.601). Hue rotates the I-Q plane and keeps Y.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_RGB = np.linalg.inv(_YIQ).astype(np.float32)
_MID_GREY = 0.5  # contrast pivots about a fixed value, which needs no pass over the pixels for their mean
_MIN_MEAN = 1.0 / 255.0  # floor of a channel's mean, so that black images stay black


def matrix(brightness: Any, contrast: Any, saturation: Any, hue: Any) -> Any:
    """Color matrix of a change of hue, then saturation, contrast and brightness.

    Args:
      brightness: f32[B], added to each channel of an image in [0,1].
      contrast: f32[B], factor about mid-grey.
      saturation: f32[B], factor of the distance from the pixel's luma (Haeberli & Voorhies 1994).
      hue: f32[B], turns of the I-Q plane; 0.5 is the opposite hue.

    Returns:
      f32[B,3,4]; apply with `transform`.
    """
    angle = 2.0 * math.pi * hue
    cos, sin, zero, one = ops.cos(angle), ops.sin(angle), ops.zeros_like(hue), ops.ones_like(hue)
    chroma = rows(
        [[one, zero, zero], [zero, saturation * cos, -saturation * sin], [zero, saturation * sin, saturation * cos]]
    )
    linear = product(_RGB[None], product(chroma, _YIQ[None])) * contrast[:, None, None]
    offset = brightness + (1.0 - contrast) * _MID_GREY
    return ops.concatenate([linear, ops.tile(offset[:, None, None], (1, 3, 1))], axis=2)


def gains(factors: Any) -> Any:
    """Color matrix f32[B,3,4] that multiplies each channel by its factor, from f32[B,3]."""
    linear = factors[:, :, None] * np.eye(3, dtype=np.float32)
    return ops.concatenate([linear, ops.zeros_like(factors)[:, :, None]], axis=2)


def grey_world(images: Any, strength: Any) -> Any:
    """Channel gains that move the channel means towards their common mean (G. Buchsbaum 1980).

    Args:
      images: float[B,H,W,3] in [0,1].
      strength: f32[B]; 0 is the identity, 1 makes the mean grey, -1 doubles the distance in logarithms.

    Returns:
      f32[B,3].
    """
    means = ops.maximum(ops.mean(ops.cast(images, "float32"), axis=(1, 2)), _MIN_MEAN)
    return ops.power(ops.mean(means, axis=1, keepdims=True) / means, strength[:, None])


def compose(first: Any, second: Any) -> Any:
    """Color matrix f32[B,3,4] equal to `first` followed by `second`."""
    linear = product(second[:, :, :3], first[:, :, :3])
    offset = product(second[:, :, :3], first[:, :, 3:]) + second[:, :, 3:]
    return ops.concatenate([linear, offset], axis=2)


def transform(images: Any, matrices: Any) -> Any:
    """Applies color matrices.

    Args:
      images: float[B,H,W,3] in [0,1].
      matrices: f32[B,3,4].

    Returns:
      float[B,H,W,3], not clipped.
    """
    return ops.einsum("bhwc,bkc->bhwk", images, matrices[:, :, :3]) + matrices[:, None, None, :, 3]


def gamma(images: Any, exponent: Any) -> Any:
    """Powers of the values of images float[B,H,W,3], negative ones taken as 0, with exponents f32[B]."""
    return ops.power(ops.maximum(images, 0.0), exponent[:, None, None, None])
