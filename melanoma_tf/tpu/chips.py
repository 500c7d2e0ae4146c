"""Published figures of TPU chips."""

from __future__ import annotations

import dataclasses

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a TPU.

    Attributes:
      memory: bytes.
      flops: FLOP/s in bfloat16.
      bandwidth: of its memory, bytes/s.
      products: of its matrix units in a cycle.
    """

    memory: float
    flops: float
    bandwidth: float
    products: int

    @property
    def clock(self) -> float:
        """Cycles/s; a product and its addition are two FLOP."""
        return self.flops / (2 * self.products)


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each version. In libtpu a device of v3
# and v4 is half a chip.
CHIPS = {
    "v3": Chip(16 * GB, 61.5e12, 450e9, 2 * 128**2),
    "v4": Chip(16 * GB, 137.5e12, 614e9, 4 * 128**2),
    "v5e": Chip(16 * GB, 197e12, 819e9, 4 * 128**2),
    "v5p": Chip(95 * GB, 459e12, 2765e9, 8 * 128**2),
    "v6e": Chip(32 * GB, 918e12, 1640e9, 4 * 256**2),
}
