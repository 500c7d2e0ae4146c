"""Counter-based random numbers: a pure function of an example's seed and of which draw it is.

No generator state, so an example's augmentation does not depend on the batch, replica, backend or run it is in.
"""

from __future__ import annotations

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


def _u32(value: int) -> Any:
    return ops.convert_to_tensor(np.uint32(value))


def _mix(x: Any) -> Any:
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))
    x = ops.multiply(x, _u32(0x7FEB352D))
    x = ops.bitwise_xor(x, ops.right_shift(x, _u32(15)))
    x = ops.multiply(x, _u32(0x846CA68B))
    return ops.bitwise_xor(x, ops.right_shift(x, _u32(16)))
