"""Antialiased Lanczos resampling of bytes, bit-identical on every machine.

Two passes, down the columns and then along the rows. Pixels and weights are integers small enough that every sum stays
below 2**24, where float32 is exact: neither the order of the sums, nor fused multiply-adds, nor the number of threads
changes a bit. The sums are computed by `_resample.c` if it was compiled at installation, otherwise by NumPy as a few
dozen matrix products.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from tfrecord_tools.imaging import _resample
except ImportError:  # no C compiler at installation
    _resample = None  # type: ignore[assignment]

KIND = "NumPy" if _resample is None else "compiled"  # of the same bits
ImageArray = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

LOBES = 3  # Lanczos3, as Pillow's LANCZOS
# Bits of the weights of the first pass, of the fraction kept between the passes, and of the second pass's weights.
# The absolute weights of an output pixel sum to less than 2 (1.6 at the edge of an enlarged image, 1.3 elsewhere),
# so the sums stay below 255 * 2 * 2**15 and 255 * 2**2 * 2**(3 + 11), both below 2**24.
_FIRST, _BETWEEN, _SECOND = 15, 3, 11
_BLOCK = 8  # output positions per matrix product: fewer make more calls, more multiply more zeros


class _Band(NamedTuple):
    """Sparse weights: output i is the sum over k of weights[i, k] * input[first[i] + k].

    Attributes:
        first: i32[outputs].
        weights: f32[outputs, taps], integers divided by a power of two.
    """

    first: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class _Block(NamedTuple):
    """Dense weights f32[stop - start, last - first]: inputs start..stop to outputs first..last, ends exclusive."""

    first: int
    last: int
    start: int
    stop: int
    weights: npt.NDArray[np.float32]


def resample(pixels: ImageArray, box: Box, width: int, height: int) -> ImageArray:
    """Resamples a box of an image with Lanczos3, antialiased, within one level of the float result.

    Args:
        pixels: u8[H,W,C], C 1, 3 or 4.
        box: Left, top, right, bottom within the image; fractions of pixels allowed.
        width: Columns of the result.
        height: Rows of the result.

    Returns:
        u8[height,width,C].

    Raises:
        ValueError: `pixels` has another shape or dtype.
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


def _in_numpy(
    pixels: ImageArray, rows: tuple[_Block, ...], columns: tuple[_Block, ...], width: int, height: int
) -> ImageArray:
    channels = pixels.shape[2]
    x0, x1 = columns[0].start, columns[-1].stop  # cropped sides cost nothing
    # Transposed between the passes: channels become the outer axis, and both passes plain products.
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
    """Rounds half to even, in place."""
    np.rint(values, out=values)


@functools.lru_cache(maxsize=512)  # two per image size in a data set, 30 KB each
def _band(length: int, start: float, stop: float, outputs: int, bits: int, exponent: int) -> _Band:
    """Returns weights rounded to `bits` bits and scaled by 2**(bits + exponent), all inside the input."""
    first, weights = lanczos_weights(length, start, stop, outputs)
    taps = min(weights.shape[1], length)
    inside = np.minimum(first, length - taps)
    # Taps that would reach past the end start earlier, with leading zero weights.
    own = np.arange(taps) - (first - inside)[:, None]
    moved = np.take_along_axis(_whole(weights, bits), np.maximum(own, 0), axis=1) * (own >= 0)
    return _Band(inside.astype(np.int32), (moved * 2.0**exponent).astype(np.float32))


@functools.lru_cache(maxsize=512)  # 100 KB each
def _blocks(length: int, start: float, stop: float, outputs: int, bits: int, exponent: int) -> tuple[_Block, ...]:
    """Returns `_band` as dense blocks of _BLOCK outputs."""
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
    """Computes Lanczos3 weights along one axis.

    Args:
        length: Input positions.
        start: Where the resampled interval begins, in input positions.
        stop: Where it ends.
        outputs: Output positions.

    Returns:
        First input position i64[outputs] and weights f64[outputs, taps], normalized to 1 over the taps inside the
        input, as in Pillow; taps outside have weight 0.
    """
    scale = (stop - start) / outputs
    widening = max(scale, 1.0)  # enlarging needs no low-pass
    centers = start + (np.arange(outputs) + 0.5) * scale
    taps = int(np.ceil(2 * LOBES * widening))
    first = np.maximum(np.floor(centers - LOBES * widening + 0.5).astype(np.int64), 0)
    positions = first[:, None] + np.arange(taps)
    distance = (positions + 0.5 - centers[:, None]) / widening
    weights = np.sinc(distance) * np.sinc(distance / LOBES) * (np.abs(distance) < LOBES) * (positions < length)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _whole(weights: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float64]:
    """Rounds weights to integers that sum to exactly 2**bits, so that a flat color is preserved."""
    whole = np.rint(weights * 2.0**bits)
    rows = np.arange(len(whole))
    whole[rows, weights.argmax(axis=1)] += 2.0**bits - whole.sum(axis=1)
    return whole
