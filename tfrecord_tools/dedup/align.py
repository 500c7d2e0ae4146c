"""Pixelwise comparison: one thumbnail is shifted and stretched onto the other, then their details are correlated.

Details are the difference from a blurred image: skin with a dark spot in the middle is alike in every image, hairs and
pigment network are not.
"""

from __future__ import annotations

import functools
from typing import cast

import numpy as np
import numpy.typing as npt

from tfrecord_tools.dedup.fingerprint import COARSE, FINE, thumbnail, transform

Floats = npt.NDArray[np.float32]

_NOISE = 2.0  # grey levels of 255; the best of 0.5, 1, 2 and 4 at separating copies and other lesions (HAM10000)
_MAX_SHIFT, _MAX_SCALE = 0.2, 1.25  # bounds of an alignment, shift in half sides; beyond is another image


@functools.cache
def _blur(size: int, sigma: float) -> Floats:
    """Gaussian blur as a matrix f32[size,size]; sigma in pixels."""
    distance = np.arange(size)[:, None] - np.arange(size)
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


def _resampling(scale: Floats, shift: Floats, size: int) -> tuple[Floats, Floats]:
    """Linear interpolation along one axis at scale * t + shift, t in -1..1 over the side.

    Returns:
      weights f32[n,size,size], and f32[n,size] that is 1 where the position is inside the image.
    """
    t = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    places = (scale[:, None] * t + shift[:, None] + 1) * (size / 2) - 0.5
    distance = np.abs(np.clip(places, 0, size - 1)[:, :, None] - np.arange(size, dtype=np.float32))
    inside = ((places > -0.5) & (places < size - 0.5)).astype(np.float32)
    return np.maximum(0, 1 - distance).astype(np.float32, copy=False), inside


def _warp(images: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Shifts and stretches images.

    Args:
      images: f32[n,s,s].
      moves: f32[n,4]: shift and scale of y, then of x; shifts in half sides.

    Returns:
      The images, and f32[n,s,s] that is 1 where they are known.
    """
    size = images.shape[-1]
    rows, inside_y = _resampling(moves[:, 1], moves[:, 0], size)
    columns, inside_x = _resampling(moves[:, 3], moves[:, 2], size)
    warped: Floats = np.matmul(np.matmul(rows, images), columns.transpose(0, 2, 1)).astype(np.float32, copy=False)
    return warped, inside_y[:, :, None] * inside_x[:, None, :]


def _align(still: Floats, moving: Floats, moves: Floats, iterations: int) -> Floats:
    """Refines moves that map `moving` onto `still`, up to gain and offset.

    Gauss-Newton (Lucas and Kanade, IJCAI 1981).
    """
    count, size, _ = still.shape
    t = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    damping = np.array([1, 1, 1, 1, 0, 0], np.float32) * 1e-4 / 6
    for _ in range(iterations):
        warped, inside = _warp(moving, moves)
        dy, dx = (cast(Floats, slope) * (size / 2) for slope in np.gradient(warped, axis=(1, 2)))
        dy, dx = dy / moves[:, 1, None, None], dx / moves[:, 3, None, None]
        terms = np.stack([dy, dy * t[:, None], dx, dx * t, warped, np.ones_like(warped)], 1)
        terms = (terms * inside[:, None]).reshape(count, 6, -1)
        normal = terms @ terms.transpose(0, 2, 1)
        normal += np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.diag(damping)
        normal += 1e-3 * np.eye(6, dtype=np.float32)  # an image of one grey has no slopes
        right = terms @ (still * inside).reshape(count, -1, 1)
        solved = np.linalg.solve(normal.astype(np.float64), right.astype(np.float64))[:, :, 0]
        gain = np.where(np.abs(solved[:, 4]) < 0.05, 1, solved[:, 4])
        step = np.clip(solved[:, :4] / gain[:, None], -0.1, 0.1)
        moves = np.clip(moves + step, [-0.4, 0.7, -0.4, 0.7], [0.4, 1.4, 0.4, 1.4]).astype(np.float32)
    return moves


def _detail_correlation(still: Floats, moving: Floats, moves: Floats, levelled: bool = False) -> Floats:
    """Correlation f32[n], -1..1, of the details that a blur by 2 pixels removes; 0 for moves out of bounds.

    Args:
      still: f32[n,S,S], luma.
      moving: f32[n,S,S], luma.
      moves: f32[n,4], of `moving` onto `still`.
      levelled: whether details are divided by their local strength (noise is not amplified), so that one sharp dark
        spot, which many images have, does not outweigh the skin around it.
    """
    blur = _blur(still.shape[-1], 2.0)
    warped, inside = _warp(moving, moves)
    area = np.maximum(inside.sum((1, 2)), 1)
    details = []
    for images in (still, warped):
        detail = (images - blur @ images @ blur.T) * inside
        if levelled:
            wide = _blur(still.shape[-1], 4.0)
            detail /= np.sqrt(wide @ detail**2 @ wide.T + np.float32(_NOISE**2))
        details.append((detail - (detail.sum((1, 2)) / area)[:, None, None]) * inside)
    power = np.sqrt((details[0] ** 2).sum((1, 2)) * (details[1] ** 2).sum((1, 2)))
    scales, shifts = moves[:, 1::2], moves[:, ::2]
    allowed = (np.abs(shifts) <= _MAX_SHIFT) & (scales <= _MAX_SCALE) & (scales >= 1 / _MAX_SCALE)
    similar = (details[0] * details[1]).sum((1, 2)) / np.maximum(power, 1e-3)
    return np.where(allowed.all(1), similar, 0).astype(np.float32)


def coarse(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Aligns thumbnails f32[n,32,32].

    Returns:
      moves f32[n,4] of the second, and correlation f32[n] of the details.
    """
    moves = np.tile(np.array([0, 1, 0, 1], np.float32), (len(first), 1))
    moves = _align(first, second, moves, iterations=4)
    return moves, _detail_correlation(first, second, moves)


def similarity(first: bytes, second: bytes, symmetry: int) -> float:
    """Correlation of the details of two JPEGs after alignment, -1..1, the first under SYMMETRIES[symmetry]."""
    if first == second:
        return 1.0
    still = transform(thumbnail(first, FINE), symmetry).astype(np.float32)[None]
    moving = thumbnail(second, FINE).astype(np.float32)[None]
    half = (1, COARSE, 2, COARSE, 2)
    moves, _ = coarse(still.reshape(half).mean((2, 4)), moving.reshape(half).mean((2, 4)))
    moves = _align(still, moving, moves, iterations=2)
    return float(_detail_correlation(still, moving, moves, levelled=True)[0])
