"""Warps in two passes of matrix products, along columns and then along rows.

E. Catmull, A. R. Smith, "3-D transformations of images in scanline order", 1980.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment import geometry
from melanoma_tf.augment.warp.coordinates import Fill, centered, fold

_MAX_WIDTH = 4.0  # of a kernel that zooms out; in half pixels, so by up to 2 without aliasing
_TAPS = 8  # pixels, or half ones, on either side of a position that the widest kernel reaches
_LANES = 128  # of a TPU's vector registers
_LOBES = 3  # of the Lanczos kernel that makes half pixels


def by_matmul(
    images: Any, matrices: Any, fill: Fill, value: float, reach: float | None, antialias: bool, dtype: str
) -> Any:
    """Cubic warp of square images [B,S,S,C]; see `affine.affine`. Returns f32[B,S,S,C]."""
    size = images.shape[1]
    # Transposing the image exchanges the rows of the matrix; the larger entry of the first column must come first.
    transposed = ops.abs(matrices[:, 1, 0]) > ops.abs(matrices[:, 0, 0])
    images = ops.cast(geometry.flip(images, transposed, axes=None), dtype)
    exchanged = ops.stack([matrices[:, 1], matrices[:, 0], matrices[:, 2]], axis=1)
    m = ops.where(transposed[:, None, None], exchanged, matrices)
    (a, b, shift_x), (c, d, shift_y) = ([m[:, i, j][:, None, None] for j in range(3)] for i in range(2))

    # [B,C,V,U]: columns half a pixel apart, also beyond the edges. On whole columns a rotation by 45 degrees would
    # sample 1.4 pixels apart and lose finer detail. By a product, because copying columns is slow on a TPU.
    if fill == "constant":
        images = images - ops.cast(value, dtype)
    # Zeros fill up registers: libtpu stores the weights of products of other shapes, gigabytes of them.
    images = ops.pad(images, ((0, 0), (0, _padding(size)), (0, 0), (0, 0)))
    columns = _half_pixel_columns(size, reach, fill)
    wide = columns.shape[1]
    columns = np.pad(columns, ((0, 0), (0, _padding(wide))))
    source = ops.einsum("bvwc,wu->bcvu", images, ops.convert_to_tensor(columns, dtype=dtype))

    # Along the columns: output row y of source column u comes from v. [B,U,Y]
    u, y = centered(wide, _padding(wide))[None, :, None] / 2.0, centered(size, _padding(size))[None, None, :]
    v = (c / a) * u + (d - b * c / a) * y + (shift_y - c * shift_x / a) + (size - 1) / 2
    shrink_x = ops.sqrt(a**2 + c**2)  # input pixels per output pixel, along the output's rows and along its columns
    shrink_y, cosine = ops.abs(a * d - b * c) / shrink_x, ops.abs(a) / shrink_x
    # Half pixels leave room up to a zoom of one; at two the kernel is as wide as it would be on whole pixels.
    width = ops.clip(1.0 + (shrink_y - 1.0) * (2.0 / cosine - 1.0), 1.0, _MAX_WIDTH) if antialias else None
    middle = _resample("buyv,bcvu->bcyu", fold(v, size, fill), size, source, fill, width, (0, 2, 1), dtype)

    # Along the rows: output column x of row y comes from u. [B,Y,X]
    x, y = centered(size, _padding(size))[None, None, :], y[:, 0, :, None]
    u = fold(2.0 * (a * x + b * y + shift_x) + (wide - 1) / 2, wide, fill)
    width = ops.clip((3.0 - 2.0 / shrink_x) * ops.abs(a), 1.0, _MAX_WIDTH) if antialias else None
    out = _resample("byxu,bcyu->bcyx", u, wide, middle, fill, width, (0, 1, 2), dtype)
    out = ops.transpose(ops.cast(out[:, :, :size, :size], "float32"), (0, 2, 3, 1))
    return out + value if fill == "constant" else out


def _padding(size: int) -> int:
    """Pixels to the next multiple of a register; images smaller than one need none."""
    return -size % _LANES if size > _LANES else 0


def _half_pixel_columns(size: int, reach: float | None, fill: Fill) -> np.ndarray[Any, Any]:
    """Weights f64[size,U] of an image's columns in columns half a pixel apart, beyond its edges too.

    Every other one is a column of the image itself; Lanczos3 interpolates those between.
    """
    needed = size * math.sqrt(0.5) if reach is None else reach
    margin = max(1, min(size, math.ceil(needed - size / 2) + 2))  # two more for the kernel
    positions = np.arange(-2 * margin, 2 * (size + margin) - 1) / 2
    columns = np.arange(-margin - _LOBES, size + margin + _LOBES)
    distance = columns[:, None] - positions
    weights = np.sinc(distance) * np.sinc(distance / _LOBES) * (np.abs(distance) < _LOBES)
    weights /= weights.sum(axis=0)
    if fill == "constant":
        return weights[margin + _LOBES : margin + _LOBES + size]
    if fill == "reflect":
        phase = columns % (2 * size)
        columns = np.minimum(phase, 2 * size - 1 - phase)
    result = np.zeros((size, len(positions)))
    np.add.at(result, np.clip(columns, 0, size - 1), weights)
    return result


def _resample(
    equation: str, positions: Any, size: int, source: Any, fill: Fill, width: Any, order: Any, dtype: str
) -> Any:
    """Resamples along one axis.

    Args:
      equation: einsum of the weights and `source`.
      positions: where to sample, [B,...].
      size: pixels along the axis.
      source: [B,C,...].
      fill: what lies beyond the edges.
      width: of the kernel, relative to the interpolating one, so as not to alias; None is 1.
      order: of the axes of `positions` in the output.
      dtype: of weights and products.
    """
    scale: Any = 1.0 if width is None else 1.0 / width
    pixels = ops.arange(size + _padding(size), dtype="float32")  # of `source`
    weights = _cubic((positions[..., None] - pixels) * (scale if width is None else scale[..., None]))
    if fill != "constant":
        # The edge pixel also takes the weights of the pixels beyond it.
        taps = range(1, 3 if width is None else _TAPS + 1)
        before = sum(_cubic((positions + tap) * scale) for tap in taps)
        after = sum(_cubic((size - 1 + tap - positions) * scale) for tap in taps)
        low = positions < size / 2
        beyond = ops.cast(ops.where(low, before, after), dtype)
        edge = pixels == ops.where(low, 0.0, size - 1.0)[..., None]
        weights += ops.where(edge, ops.cast(beyond, "float32")[..., None], 0.0)
    out = ops.einsum(equation, ops.cast(weights, dtype), source)
    if width is None:
        return out
    # A widened kernel does not add up to one at every position.
    first = ops.floor(positions) - positions
    total = sum(_cubic((first + tap) * scale) for tap in range(1 - _TAPS, _TAPS + 1))
    return out / ops.cast(ops.transpose(total, order)[:, None], dtype)


def _cubic(distance: Any) -> Any:
    """Cubic convolution kernel (R. Keys 1981, a = -1/2), 0 beyond 2, as a sum of powers that end at 2 and at 1."""
    distance = ops.abs(distance)
    outer, inner = ops.maximum(2.0 - distance, 0.0), ops.maximum(1.0 - distance, 0.0)
    return 0.5 * outer * outer * (outer - 1.0) + inner * inner * (1.0 - 2.0 * inner)
