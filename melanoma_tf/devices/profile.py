"""What the models and the augmentation need to know of a device."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

LANES = 128  # of a TPU's vector registers, along which libtpu lays the batch where there are fewer channels
_SMALL_TPUS = ("TPU v2", "TPU v3", "TPU v4")  # 16 MB of fast memory, which shearing an image of 512 px would fill

WarpMethod = Literal["gather", "kernel", "matmul", "shears"]


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """Backend and devices that a step runs on; `settings` below is `config.tpu`, which other devices ignore.

    Attributes:
      backend: "tensorflow" or "jax".
      kind: "cpu", "gpu" or "tpu".
      generation: of TPUs under JAX, e.g. "TPU v5 lite".
      replicas: devices that divide a global batch.
    """

    backend: str
    kind: str
    generation: str = ""
    replicas: int = 1

    @property
    def is_tpu(self) -> bool:
        """Whether the step runs on TPUs."""
        return self.kind == "tpu"

    @property
    def prefers_own_kernels(self) -> bool:
        """Whether TensorFlow's own kernels are faster than XLA here: on a CPU."""
        return (self.backend, self.kind) == ("tensorflow", "cpu")

    def warp_method(self, settings: Any) -> WarpMethod:
        """Method of `warp.affine`; "shears" only where the settings ask for it and the TPU can run it."""
        if self.is_tpu:
            shears = self.backend == "jax" and not self.generation.startswith(_SMALL_TPUS)
            return "shears" if settings.warp == "shears" and shears else "matmul"
        return "kernel" if self.prefers_own_kernels else "gather"

    def warp_dtype(self, compute_dtype: str) -> str:
        """Dtype in which images are resampled: the policy's on TPUs, which wait for memory; else float32."""
        return compute_dtype if self.is_tpu else "float32"

    def tpu_rewrites(self, settings: Any, compute_dtype: str) -> bool:
        """Whether layers are replaced by faster ones.

        They are written in JAX, and in float32 the joint gradient of convolution and batch norm loses digits.
        """
        return bool(settings.rewrites) and self._rewrites_graphs and compute_dtype == "bfloat16"

    def spatial_splits(self, settings: Any, batch_size: int) -> int:
        """Parts into which the first blocks split each image; 0 in the settings: enough to fill the lanes.

        Args:
          settings: `config.tpu`.
          batch_size: images in a global batch.
        """
        if not self._rewrites_graphs:
            return 1
        images = max(1, batch_size // self.replicas)
        filling = 1 << (LANES // images).bit_length() - 1 if images <= LANES else 1
        return settings.spatial_splits or filling

    @property
    def _rewrites_graphs(self) -> bool:
        return (self.backend, self.kind) == ("jax", "tpu")
