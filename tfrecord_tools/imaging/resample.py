"""Antialiased Lanczos resampling of bytes, the same bits on every machine.

Two passes, down the columns and then along the rows. Pixels and weights are whole numbers small enough that every sum
stays below 2**24, where float32 is exact: so neither the order of the sums, nor fused multiply-adds, nor the number of
threads can change a bit, and the work is done by the fastest kernels a machine has: `_resample.c` where a C compiler
was there at installation, and a few dozen matrix products of the BLAS that NumPy brings elsewhere.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from tfrecord_tools.imaging import _resample
except ImportError:  # not compiled, for want of a C compiler at installation, or not for this machine
    _resample = None  # type: ignore[assignment]

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Bounds = tuple[int, int, int, int]  # the same, whole pixels; right and bottom exclusive

LOBES = 3  # Lanczos3, as Pillow's LANCZOS
# Bits of the weights of the first pass, of the fraction kept between the passes, and of the second pass's weights.
# The absolute weights of an output pixel sum to less than 2 (1.6 at the edge of an enlarged image, 1.3 elsewhere),
# so the sums stay below 255 * 2 * 2**15 and 255 * 2**2 * 2**(3 + 11), both below 2**24.
_FIRST, _BETWEEN, _SECOND = 15, 3, 11
_BLOCK = 8  # output rows or columns per product: less costs more calls, more costs more products with zero


class _Band(NamedTuple):
    """Output position i is the sum over k of weights[i, k] times input position first[i] + k.

    first: i32[outputs]. weights: f32[outputs, taps], whole numbers over a power of two.
    """

    first: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class _Block(NamedTuple):
    """Output positions first..last (exclusive) come from input positions start..stop: weights f32[inputs, outputs]."""

    first: int
    last: int
    start: int
    stop: int
    weights: npt.NDArray[np.float32]


def resample(pixels: Pixels, box: Box, width: int, height: int) -> Pixels:
    """Resamples the box of an image to width x height: u8[H,W,C] -> u8[height,width,C], C 1, 3 or 4.

    box: left, top, right, bottom, fractions of pixels allowed, within the image. Lanczos3, widened when shrinking, so
    nothing above the new Nyquist frequency comes back as a pattern. Within one level of the float result.

    Raises ValueError for other pixels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"pixels must be u8[H,W,1, 3 or 4], got {pixels.dtype}{list(pixels.shape)}")
    left, top, right, bottom = box
    rows = (pixels.shape[0], top, bottom, height, _FIRST, _BETWEEN - _FIRST)
    columns = (pixels.shape[1], left, right, width, _SECOND, -_BETWEEN - _SECOND)
    if _resample is None:
        return _in_numpy(pixels, _blocks(*rows), _blocks(*columns), width, height)
    out = np.empty((height, width, pixels.shape[2]), np.uint8)
    _resample.resample_into(np.ascontiguousarray(pixels), pixels.shape, _band(*rows), _band(*columns), out)
    return out


def reach(width: int, height: int, box: Box, to_width: int, to_height: int) -> Bounds:
    """(left, top, right, bottom) of the whole pixels of a width x height image that `resample` reads for this box."""
    left, top, right, bottom = box
    rows = _band(height, top, bottom, to_height, _FIRST, _BETWEEN - _FIRST)
    columns = _band(width, left, right, to_width, _SECOND, -_BETWEEN - _SECOND)
    ends = (int(band.first[-1]) + band.weights.shape[1] for band in (columns, rows))
    return int(columns.first[0]), int(rows.first[0]), *ends


def _in_numpy(pixels: Pixels, rows: tuple[_Block, ...], columns: tuple[_Block, ...], width: int, height: int) -> Pixels:
    channels = pixels.shape[2]
    # From here only the columns that count, so that cropped sides cost nothing.
    x0, x1 = columns[0].start, columns[-1].stop
    # The first pass writes its result turned over: then channels lie outside rows, and both passes are plain products.
    turned = np.empty(((x1 - x0) * channels, height), np.float32)
    for block in rows:
        band = pixels[block.start : block.stop, x0:x1].astype(np.float32).reshape(block.stop - block.start, -1)
        np.matmul(band.T, block.weights, out=turned[:, block.first : block.last])
    _round(turned)
    turned = turned.reshape(x1 - x0, channels * height)
    planes = np.empty((channels * height, width), np.float32)
    for block in columns:
        band = turned[block.start - x0 : block.stop - x0]
        np.matmul(band.T, block.weights, out=planes[:, block.first : block.last])
    _round(planes)
    np.clip(planes, 0, 255, out=planes)
    levels = planes.astype(np.uint8).reshape(channels, height, width)
    out = np.empty((height, width, channels), np.uint8)
    for channel in range(channels):
        out[..., channel] = levels[channel]
    return out


def _round(values: npt.NDArray[np.float32]) -> None:
    """In place, half to even; exact, because the values are whole numbers over a power of two."""
    np.rint(values, out=values)


@functools.lru_cache(maxsize=512)  # two for each size of image in a data set, 30 KB each
def _band(length: int, start: float, stop: float, outputs: int, bits: int, exponent: int) -> _Band:
    """Weights times 2**(bits + exponent), whole before the second; none for positions outside the input."""
    first, weights = lanczos_weights(length, start, stop, outputs)
    taps = min(weights.shape[1], length)
    inside = np.minimum(first, length - taps)
    # Those that would begin too far on begin earlier instead, with weights of 0 before their own.
    own = np.arange(taps) - (first - inside)[:, None]
    moved = np.take_along_axis(_whole(weights, bits), np.maximum(own, 0), axis=1) * (own >= 0)
    return _Band(inside.astype(np.int32), (moved * 2.0**exponent).astype(np.float32))


@functools.lru_cache(maxsize=512)  # 100 KB each
def _blocks(length: int, start: float, stop: float, outputs: int, bits: int, exponent: int) -> tuple[_Block, ...]:
    """`_band` in blocks of outputs."""
    first, weights = _band(length, start, stop, outputs, bits, exponent)
    taps = weights.shape[1]
    blocks = []
    for begin in range(0, outputs, _BLOCK):
        end = min(begin + _BLOCK, outputs)
        low, high = int(first[begin]), int(first[end - 1]) + taps
        dense = np.zeros((high - low, end - begin), np.float32)
        for column in range(end - begin):
            at = int(first[begin + column]) - low
            dense[at : at + taps, column] = weights[begin + column]
        blocks.append(_Block(begin, end, low, high, dense))
    return tuple(blocks)


def lanczos_weights(
    length: int, start: float, stop: float, outputs: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(first input position i64[outputs], weights f64[outputs, taps]); the weights of an output sum to 1.

    length: input positions. start..stop: the stretch of them that becomes `outputs` positions. Taps that would lie
    outside the input have weight 0, and those inside are scaled up for them, as Pillow does.
    """
    scale = (stop - start) / outputs
    widening = max(scale, 1.0)  # enlarging needs no low-pass
    centres = start + (np.arange(outputs) + 0.5) * scale
    taps = int(np.ceil(2 * LOBES * widening)) + 1
    first = np.maximum(np.floor(centres - LOBES * widening + 0.5).astype(np.int64), 0)
    positions = first[:, None] + np.arange(taps)
    distance = (positions + 0.5 - centres[:, None]) / widening
    weights = np.sinc(distance) * np.sinc(distance / LOBES) * (np.abs(distance) < LOBES) * (positions < length)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _whole(weights: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float64]:
    """The weights as whole numbers that sum to 2**bits exactly, so that a plain colour stays what it is."""
    whole = np.rint(weights * 2.0**bits)
    rows = np.arange(len(whole))
    whole[rows, weights.argmax(axis=1)] += 2.0**bits - whole.sum(axis=1)
    return whole
