"""Bilinear warps that read four pixels per output pixel, in `keras.ops` or by TensorFlow's kernel."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from melanoma_tf.augment import degradation
from melanoma_tf.augment.warp.coordinates import Fill, centered, pixel_index

_MAX_SHRINK = 4.0  # in area, without aliasing


def prefilter(images: Any, matrices: Any) -> Any:
    """Blurs images as much as their maps shrink them: to a Gaussian of half an output pixel's side.

    Args:
      images: [B,H,W,C], any dtype.
      matrices: f32[B,3,3], see `geometry`.

    Returns:
      f32[B,H,W,C].
    """
    shrink = ops.abs(matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0])  # in area
    sigma = ops.sqrt(ops.clip(shrink, 1.0, _MAX_SHRINK) - 1.0) / 2.0
    return degradation.blur(ops.cast(images, "float32"), sigma, math.sqrt(_MAX_SHRINK - 1.0) / 2.0)


def by_gather(images: Any, matrices: Any, fill: Fill, value: float) -> Any:
    """Bilinear warp of images [B,H,W,C] by `ops.take`; see `affine.affine`. Returns f32[B,H,W,C]."""
    _, height, width, channels = images.shape
    x, y = centered(width), centered(height)
    m = [[matrices[:, i, j][:, None, None] for j in range(3)] for i in range(2)]
    source_x = m[0][0] * x[None, None, :] + m[0][1] * y[None, :, None] + (m[0][2] + (width - 1) / 2)
    source_y = m[1][0] * x[None, None, :] + m[1][1] * y[None, :, None] + (m[1][2] + (height - 1) / 2)
    left, top = ops.floor(source_x), ops.floor(source_y)
    right_weight, bottom_weight = source_x - left, source_y - top
    first = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * (height * width)
    pixels = ops.reshape(images, (-1, channels))
    total: Any = 0.0
    for row, weight_y in ((top, 1.0 - bottom_weight), (top + 1.0, bottom_weight)):
        for column, weight_x in ((left, 1.0 - right_weight), (left + 1.0, right_weight)):
            weight = weight_x * weight_y
            if fill == "constant":
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                weight = ops.where(inside, weight, 0.0)
            index = first + pixel_index(row, height, fill) * width + pixel_index(column, width, fill)
            tap = ops.cast(ops.take(pixels, ops.reshape(index, (-1,)), axis=0), "float32")
            tap = ops.reshape(tap, (-1, height, width, channels))
            total += weight[..., None] * (tap - value if fill == "constant" else tap)
    return total + value if fill == "constant" else total


def by_kernel(images: Any, matrices: Any, fill: Fill, value: float) -> Any:
    """Bilinear warp of images [B,H,W,C] by TensorFlow's kernel; see `affine.affine`. Returns f32[B,H,W,C]."""
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"method 'kernel' needs the TensorFlow backend, got {keras.backend.backend()}; use method 'gather'"
        )
    _, height, width, _ = images.shape
    x, y = (width - 1) / 2, (height - 1) / 2
    # The kernel counts from the upper left pixel, the matrices from the center.
    entries = [
        [m[:, 0], m[:, 1], m[:, 2] + middle - m[:, 0] * x - m[:, 1] * y]
        for m, middle in ((matrices[:, 0], x), (matrices[:, 1], y))
    ]
    zero = ops.zeros_like(matrices[:, 0, 0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=ops.cast(images, "float32"),
        transforms=ops.stack([*entries[0], *entries[1], zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=value,
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )
