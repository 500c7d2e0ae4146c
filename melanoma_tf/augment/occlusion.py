"""What lies over the lesion or blurs it: cutout, hairs, the microscope's round border, blur, noise.

All by arithmetic on coordinates: nothing is gathered, pasted or looped over on the host, so everything compiles.
Images are float[B,H,W,3]; sizes and places are fractions of the shorter side unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment import random


def cutout(images: Any, centre_x: Any, centre_y: Any, size: Any, value: float = 0.0) -> Any:
    """Covers a square, cut off where it lies beyond an edge (T. DeVries, G. W. Taylor 2017).

    Args:
      centre_x, centre_y: f32[B] in [0,1): of the width and the height. The square's left and upper edge lie size/2
        before the pixel there, as in `tfa.image.random_cutout`.
      size: f32[B], its side; 0 covers nothing.
      value: what is put there.
    """
    _, height, width, _ = images.shape
    pixels = ops.round(size * (min(height, width) / 2.0))  # half the side, whole
    x, y = ops.floor(centre_x * width), ops.floor(centre_y * height)
    columns, rows = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")
    covered_x = (columns >= (x - pixels)[:, None]) & (columns < (x + pixels)[:, None])
    covered_y = (rows >= (y - pixels)[:, None]) & (rows < (y + pixels)[:, None])
    return ops.where((covered_y[:, :, None] & covered_x[:, None, :])[..., None], ops.cast(value, images.dtype), images)


def hairs(images: Any, strokes: Sequence[Sequence[Any]]) -> Any:
    """Draws dark or light arcs, each `(x, y, angle, bend, length, thickness, shade)` of f32[B].

    x, y: of the middle of the hair, in [0,1] of width and height. angle: radians. bend: 1/radius of the arc, per
    shorter side. length, thickness: fractions of the shorter side; a thickness of 0 draws nothing. shade: in [0,1],
    from black to what skin is.
    """
    _, height, width, _ = images.shape
    side = float(min(height, width))
    columns = ops.arange(width, dtype="float32")[None, None, :] / side
    rows = ops.arange(height, dtype="float32")[None, :, None] / side
    cover: Any = 0.0
    ink: Any = 0.0
    for stroke in strokes:
        x, y, angle, bend, length, thickness, shade = (each[:, None, None] for each in stroke)
        right, down = columns - x * (width / side), rows - y * (height / side)
        along = right * ops.cos(angle) + down * ops.sin(angle)
        across = down * ops.cos(angle) - right * ops.sin(angle)
        # A parabola is an arc to second order, and the slope makes its thickness even.
        slope = bend * along
        off = ops.abs(across - 0.5 * slope * along) / ops.sqrt(1.0 + slope * slope)
        edge = ops.clip((thickness / 2.0 - off) * side + 0.5, 0.0, 1.0)  # one pixel of antialiasing
        end = ops.clip((length / 2.0 - ops.abs(along)) * side + 0.5, 0.0, 1.0)
        alpha = ops.where(thickness > 0, edge * end, 0.0)
        ink = ops.where(alpha > cover, shade, ink)
        cover = ops.maximum(cover, alpha)
    cover, ink = (ops.cast(each, images.dtype)[..., None] for each in (cover, ink))
    return images + cover * (ink * np.array([0.75, 0.6, 0.5], np.float32) - images)


def microscope(images: Any, radius: Any, softness: float = 0.02) -> Any:
    """Black outside a circle about the centre. radius: f32[B] of the shorter side; softness: width of its edge."""
    _, height, width, _ = images.shape
    side = min(height, width)
    columns = (ops.arange(width, dtype="float32") - (width - 1) / 2) / side
    rows = (ops.arange(height, dtype="float32") - (height - 1) / 2) / side
    distance = ops.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
    light = ops.clip((radius[:, None, None] - distance) / softness + 0.5, 0.0, 1.0)
    return images * ops.cast(light[..., None], images.dtype)


def blur(images: Any, sigma: Any, most: float) -> Any:
    """Gaussian blur. sigma: f32[B] in pixels, 0 changes nothing; most: the largest there is. Edges are mirrored."""
    reach = min(math.ceil(2.5 * most), images.shape[1] - 1, images.shape[2] - 1)
    distance = np.arange(-reach, reach + 1, dtype=np.float32)
    sharp = np.where(distance == 0, 1.0, 0.0).astype(np.float32)
    tiny = sigma < 0.05
    safe = ops.where(tiny, 1.0, sigma)[:, None]
    weights = ops.where(tiny[:, None], sharp, ops.exp(-0.5 * (distance / safe) ** 2))
    weights = ops.cast(weights / ops.sum(weights, axis=1, keepdims=True), images.dtype)
    for axis in (1, 2):
        size = images.shape[axis]
        padding = [[0, 0]] * 4
        padding[axis] = [reach, reach]
        padded = ops.pad(images, padding, mode="symmetric" if size > reach else "reflect")
        take = _slices(padded, axis, size)
        images = sum(weights[:, k, None, None, None] * take(k) for k in range(2 * reach + 1))
    return images


def _slices(padded: Any, axis: int, size: int) -> Callable[[int], Any]:
    return lambda start: padded[:, start : start + size] if axis == 1 else padded[:, :, start : start + size]


def noise(images: Any, seeds: Any, sigma: Any) -> Any:
    """Adds independent Gaussian noise to each value. seeds: u32[B]; sigma: f32[B], of an image in [0,1]."""
    _, height, width, channels = images.shape
    values = random.normal_field(seeds, height * width * channels)
    return images + ops.reshape(values, (-1, height, width, channels)) * sigma[:, None, None, None]
