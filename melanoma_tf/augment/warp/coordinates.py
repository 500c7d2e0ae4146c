"""Pixel coordinates and what lies beyond an image's edges, shared by the warps."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops

Fill = Literal["reflect", "nearest", "constant"]
FILLS: tuple[Fill, ...] = ("reflect", "nearest", "constant")


def centered(size: int, padding: int = 0) -> Any:
    """Pixel positions relative to the image center.

    Args:
      size: pixels of the image along the axis.
      padding: further positions after the last pixel.

    Returns:
      f32[size + padding].
    """
    return ops.arange(size + padding, dtype="float32") - (size - 1) / 2


def mirror(positions: Any, size: int) -> Any:
    """Positions folded into [-0.5, size - 0.5] by repeated mirroring at the edges, each edge pixel seen twice."""
    phase = ops.mod(positions + 0.5, 2.0 * size)
    return ops.minimum(phase, 2.0 * size - phase) - 0.5


def fold(positions: Any, size: int, fill: Fill) -> Any:
    """Positions of the pixels seen beyond the edges; unchanged for "constant"."""
    if fill == "reflect":
        return mirror(positions, size)
    return ops.clip(positions, 0, size - 1) if fill == "nearest" else positions


def pixel_index(positions: Any, size: int, fill: Fill) -> Any:
    """Indices i32 in 0..size-1 of integral float positions; "constant" clips them like "nearest"."""
    return ops.cast(mirror(positions, size) if fill == "reflect" else ops.clip(positions, 0, size - 1), "int32")
