"""Counter-based random numbers: a pure function of an example's seed and the index of the draw.

There is no generator state, so an example's augmentation does not depend on its batch, replica, backend or run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from keras import ops

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive draw indices over all bits


def bits(seeds: Any, draw: int) -> Any:
    """Random 32-bit integers.

    Two rounds of the lowbias32 mixer (C. Wellons, "Prospecting for hash functions", 2018) with the draw in between, so
    that neither neighboring seeds nor neighboring draws are correlated.

    Args:
      seeds: u32[B].
      draw: index of the draw, at least 0.

    Returns:
      u32[B].
    """
    mixed = _mix(ops.cast(seeds, "uint32"))
    return _mix(ops.bitwise_xor(mixed, _u32((draw + 1) * _GOLDEN % 2**32)))


def uniform(seeds: Any, draw: int, low: float = 0.0, high: float = 1.0) -> Any:
    """Uniform f32[B] in [low, high) with 24 bits of resolution, from seeds u32[B]."""
    unit = ops.cast(ops.right_shift(bits(seeds, draw), _u32(8)), "float32") * 2.0**-24
    return low + (high - low) * unit


def normal(seeds: Any, draw: int) -> Any:
    """Standard normal f32[B] (G. E. P. Box, M. E. Muller 1958), from the uniform draws `draw` and `draw + 1`."""
    return _box_muller(uniform(seeds, draw), uniform(seeds, draw + 1))


def normal_field(seeds: Any, count: int) -> Any:
    """Independent standard normal numbers f32[B,count], from seeds u32[B]."""
    index = ops.cast(ops.arange(count, dtype="int32"), "uint32")[None, :]  # XLA has no range of u32
    mixed = _mix(ops.cast(seeds, "uint32"))[:, None]
    words = _mix(ops.bitwise_xor(mixed, ops.multiply(index + _u32(1), _u32(_GOLDEN))))
    low, high = ops.bitwise_and(words, _u32(0xFFFF)), ops.right_shift(words, _u32(16))
    # 16 bits each suffice for noise: the tails end at 4.7 standard deviations.
    halves = [(ops.cast(half, "float32") + 0.5) * 2.0**-16 for half in (low, high)]
    return _box_muller(1.0 - halves[0], halves[1])


def beta(unit: Any, alpha: float) -> Any:
    """Beta(alpha, alpha) from uniform numbers, by its quantile function at 4097 points, linearly interpolated.

    Args:
      unit: f32[B] in [0,1).
      alpha: above 0.

    Returns:
      f32[B] in [0,1].
    """
    from scipy import special

    table = special.betaincinv(alpha, alpha, np.linspace(0.0, 1.0, 4097)).astype(np.float32)
    position = unit * 4096.0
    low = ops.floor(position)
    index = ops.cast(low, "int32")
    below, above = (ops.take(ops.convert_to_tensor(table), index + k) for k in (0, 1))
    return below + (above - below) * (position - low)


def _box_muller(radius: Any, angle: Any) -> Any:
    """Standard normal numbers from two uniform ones in [0,1)."""
    return ops.sqrt(-2.0 * ops.log(1.0 - radius)) * ops.cos(2.0 * math.pi * angle)


def _u32(value: int) -> Any:
    return ops.convert_to_tensor(np.uint32(value))


def _mix(x: Any) -> Any:
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))
    x = ops.multiply(x, _u32(0x7FEB352D))
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(15)))
    x = ops.multiply(x, _u32(0x846CA68B))
    return ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))


@dataclasses.dataclass(frozen=True)
class Stream:
    """Random numbers of one operation.

    Attributes:
      seeds: u32[B], of the examples.
      first: index of the operation's first draw.
    """

    seeds: Any
    first: int = 0

    def uniform(self, draw: int, low: float = 0.0, high: float = 1.0) -> Any:
        """Uniform f32[B] in [low, high)."""
        return uniform(self.seeds, self.first + draw, low, high)

    def normal(self, draw: int) -> Any:
        """Standard normal f32[B]; uses `draw` and `draw + 1`."""
        return normal(self.seeds, self.first + draw)

    def bernoulli(self, draw: int, probability: float) -> Any:
        """Mask bool[B], True with the given probability."""
        return self.uniform(draw) < probability

    def split(self, draw: int) -> Any:
        """New seeds u32[B], independent of the other draws."""
        return bits(self.seeds, self.first + draw)
