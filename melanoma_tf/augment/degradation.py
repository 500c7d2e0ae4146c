"""Occlusions and degradations: cutout, hairs and ink, ruler marks, the microscope's border, blur, noise.

All are arithmetic on coordinates, without gathers, pastes or host loops, so that everything compiles. Images are
float[B,H,W,3]; sizes and positions are fractions of the shorter side unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment import random


def cutout(images: Any, center_x: Any, center_y: Any, size: Any, value: float = 0.0) -> Any:
    """Covers a square, cut off at the edges (T. DeVries, G. W. Taylor 2017).

    Args:
      images: float[B,H,W,C].
      center_x: f32[B] in [0,1) of the width. The square starts size/2 before the pixel there, as in
        `tfa.image.random_cutout`.
      center_y: f32[B] in [0,1) of the height.
      size: f32[B], side of the square; 0 covers nothing.
      value: of the covered pixels.

    Returns:
      Like `images`.
    """
    _, height, width, _ = images.shape
    pixels = ops.round(size * (min(height, width) / 2.0))  # half the side
    x, y = ops.floor(center_x * width), ops.floor(center_y * height)
    columns, rows = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")
    covered_x = (columns >= (x - pixels)[:, None]) & (columns < (x + pixels)[:, None])
    covered_y = (rows >= (y - pixels)[:, None]) & (rows < (y + pixels)[:, None])
    return ops.where((covered_y[:, :, None] & covered_x[:, None, :])[..., None], ops.cast(value, images.dtype), images)


SKIN = (0.75, 0.6, 0.5)  # light skin, RGB in [0,1]
MARKER = (0.4, 0.2, 0.75)  # gentian violet, of which skin markers are made


def arcs(images: Any, strokes: Sequence[Sequence[Any]], color: tuple[float, float, float] = SKIN) -> Any:
    """Draws dark or light arcs: hairs, or ink.

    Args:
      images: float[B,H,W,3] in [0,1].
      strokes: for each arc `(x, y, angle, bend, length, thickness, shade)`, each f32[B]. x, y: the arc's center, in
        [0,1] of width and height. angle: radians. bend: 1/radius of the arc, per shorter side. length, thickness:
        fractions of the shorter side; a thickness of 0 draws nothing. shade: in [0,1], from black to `color`.
      color: RGB in [0,1].

    Returns:
      Like `images`.
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
        # A parabola is an arc to second order; dividing by the slope keeps its thickness even.
        slope = bend * along
        distance = ops.abs(across - 0.5 * slope * along) / ops.sqrt(1.0 + slope * slope)
        edge = ops.clip((thickness / 2.0 - distance) * side + 0.5, 0.0, 1.0)  # one pixel of antialiasing
        end = ops.clip((length / 2.0 - ops.abs(along)) * side + 0.5, 0.0, 1.0)
        alpha = ops.where(thickness > 0, edge * end, 0.0)
        ink = ops.where(alpha > cover, shade, ink)
        cover = ops.maximum(cover, alpha)
    cover, ink = (ops.cast(each, images.dtype)[..., None] for each in (cover, ink))
    return images + cover * (ink * np.array(color, np.float32) - images)


def ruler(images: Any, edge: Any, offset: Any, spacing: Any, length: Any, thickness: float = 0.006) -> Any:
    """Draws the black ticks of a ruler along an edge, every fifth of them longer by half.

    Args:
      images: float[B,H,W,C].
      edge: i32[B]: 0 left, 1 top, 2 right, 3 bottom.
      offset: f32[B], shift of the ticks along the edge, in spacings.
      spacing: f32[B], distance of neighboring ticks, as a fraction of the shorter side.
      length: f32[B], of a short tick, likewise; 0 draws nothing.
      thickness: of the ticks, likewise.

    Returns:
      Like `images`.
    """
    _, height, width, _ = images.shape
    side = float(min(height, width))
    edge, offset, spacing, length = (each[:, None, None] for each in (edge, offset, spacing, length))
    x = (ops.arange(width, dtype="float32")[None, None, :] + 0.5) / side
    y = (ops.arange(height, dtype="float32")[None, :, None] + 0.5) / side
    from_far = [width / side - x, height / side - y]
    inwards = ops.where(edge == 0, x, ops.where(edge == 1, y, ops.where(edge == 2, *from_far)))
    along = ops.where(edge % 2 == 0, y, x) / spacing + offset
    tick = ops.round(along)
    reach = length * ops.where(tick % 5 == 0, 1.5, 1.0)
    across = ops.clip((thickness / 2.0 - ops.abs(along - tick) * spacing) * side + 0.5, 0.0, 1.0)
    end = ops.clip((reach - inwards) * side + 0.5, 0.0, 1.0)
    cover = ops.where(length > 0, across * end, 0.0)
    return images * ops.cast(1.0 - cover, images.dtype)[..., None]


def microscope(images: Any, radius: Any, softness: float = 0.02) -> Any:
    """Blackens the outside of a centered circle.

    Args:
      images: float[B,H,W,C].
      radius: f32[B].
      softness: width of the circle's edge.

    Returns:
      Like `images`.
    """
    _, height, width, _ = images.shape
    side = min(height, width)
    columns = (ops.arange(width, dtype="float32") - (width - 1) / 2) / side
    rows = (ops.arange(height, dtype="float32") - (height - 1) / 2) / side
    distance = ops.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2)
    light = ops.clip((radius[:, None, None] - distance) / softness + 0.5, 0.0, 1.0)
    return images * ops.cast(light[..., None], images.dtype)


def blur(images: Any, sigma: Any, max_sigma: float) -> Any:
    """Gaussian blur with mirrored edges.

    Args:
      images: float[B,H,W,C].
      sigma: f32[B], standard deviation in pixels; 0 is the identity.
      max_sigma: upper bound of `sigma`, which sets the kernel's size.

    Returns:
      Like `images`.
    """
    reach = min(math.ceil(2.5 * max_sigma), images.shape[1] - 1, images.shape[2] - 1)
    distance = np.arange(-reach, reach + 1, dtype=np.float32)
    identity = np.where(distance == 0, 1.0, 0.0).astype(np.float32)
    tiny = sigma < 0.05
    safe = ops.where(tiny, 1.0, sigma)[:, None]
    weights = ops.where(tiny[:, None], identity, ops.exp(-0.5 * (distance / safe) ** 2))
    weights = ops.cast(weights / ops.sum(weights, axis=1, keepdims=True), images.dtype)
    for axis in (1, 2):
        size = images.shape[axis]
        padding = [[0, 0]] * 4
        padding[axis] = [reach, reach]
        padded = ops.pad(images, padding, mode="symmetric" if size > reach else "reflect")
        window = _windows(padded, axis, size)
        images = sum(weights[:, k, None, None, None] * window(k) for k in range(2 * reach + 1))
    return images


def _windows(padded: Any, axis: int, size: int) -> Callable[[int], Any]:
    return lambda start: padded[:, start : start + size] if axis == 1 else padded[:, :, start : start + size]


def noise(images: Any, seeds: Any, sigma: Any) -> Any:
    """Adds independent Gaussian noise to each value.

    Args:
      images: float[B,H,W,C] in [0,1].
      seeds: u32[B].
      sigma: f32[B], standard deviation.

    Returns:
      Like `images`.
    """
    _, height, width, channels = images.shape
    values = random.normal_field(seeds, height * width * channels)
    return images + ops.reshape(values, (-1, height, width, channels)) * sigma[:, None, None, None]
