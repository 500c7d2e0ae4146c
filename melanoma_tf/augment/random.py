"""Counter-based random numbers: a pure function of an example's seed and of which draw it is.

No generator state, so an example's augmentation does not depend on the batch, replica, backend or run it is in.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from keras import ops

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive draw numbers over all bits


def bits(seeds: Any, draw: int) -> Any:
    """32 random bits per example. seeds: u32[B]; draw: which number of this example, >= 0. Returns u32[B].

    Two rounds of the lowbias32 mixer (C. Wellons, "Prospecting for hash functions", 2018) with the draw in between,
    so that neither neighbouring seeds nor neighbouring draws are correlated.
    """
    mixed = _mix(ops.cast(seeds, "uint32"))
    return _mix(ops.bitwise_xor(mixed, _u32((draw + 1) * _GOLDEN % 2**32)))


def uniform(seeds: Any, draw: int, low: float = 0.0, high: float = 1.0) -> Any:
    """Uniform float32 in [low, high), 24 bits of resolution. seeds: u32[B]. Returns f32[B]."""
    unit = ops.cast(ops.right_shift(bits(seeds, draw), _u32(8)), "float32") * 2.0**-24
    return low + (high - low) * unit


def normal(seeds: Any, draw: int) -> Any:
    """Standard normal f32[B], from two uniform draws (G. E. P. Box, M. E. Muller 1958): `draw` and `draw + 1`."""
    return _box_muller(uniform(seeds, draw), uniform(seeds, draw + 1))


def normal_field(seeds: Any, count: int) -> Any:
    """`count` independent standard normal numbers for each example. seeds: u32[B]. Returns f32[B,count]."""
    index = ops.cast(ops.arange(count, dtype="int32"), "uint32")[None, :]  # XLA has no range of u32
    mixed = _mix(ops.cast(seeds, "uint32"))[:, None]
    first = _mix(ops.bitwise_xor(mixed, ops.multiply(index + _u32(1), _u32(_GOLDEN))))
    low, high = ops.bitwise_and(first, _u32(0xFFFF)), ops.right_shift(first, _u32(16))
    # 16 bits each: enough for noise, whose tails end at 4.7 standard deviations.
    halves = [(ops.cast(each, "float32") + 0.5) * 2.0**-16 for each in (low, high)]
    return _box_muller(1.0 - halves[0], halves[1])


def _box_muller(one: Any, other: Any) -> Any:
    """one: f32 in [0,1); other: f32 in [0,1)."""
    return ops.sqrt(-2.0 * ops.log(1.0 - one)) * ops.cos(2.0 * math.pi * other)


def _u32(value: int) -> Any:
    return ops.convert_to_tensor(np.uint32(value))


def _mix(x: Any) -> Any:
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))
    x = ops.multiply(x, _u32(0x7FEB352D))
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(15)))
    x = ops.multiply(x, _u32(0x846CA68B))
    return ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The random numbers of one operation: those of the examples' seeds u32[B] from the draw `first` on."""

    seeds: Any
    first: int = 0

    def uniform(self, draw: int, low: float = 0.0, high: float = 1.0) -> Any:
        """f32[B] in [low, high)."""
        return uniform(self.seeds, self.first + draw, low, high)

    def normal(self, draw: int) -> Any:
        """Standard normal f32[B]; uses `draw` and `draw + 1`."""
        return normal(self.seeds, self.first + draw)

    def chosen(self, draw: int, probability: float) -> Any:
        """bool[B], True with this probability."""
        return self.uniform(draw) < probability

    def further_seeds(self, draw: int) -> Any:
        """u32[B] for a generator of its own."""
        return bits(self.seeds, self.first + draw)
