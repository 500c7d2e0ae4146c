"""Batch normalization of split images, whose halo rows count in no mean."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from melanoma_tf.models import batch_norm


@keras.saving.register_keras_serializable("melanoma_tf.tpu.halo_batch_norm")
class BatchNormalization(batch_norm.BatchNormalization):
    """`models.batch_norm.BatchNormalization` that leaves rows at the upper and lower edge out of its statistics.

    The class is named as Keras' own because weights files file layers under the names of their classes.

    Args:
      halo: rows above and below that are normalized but not counted.
    """

    def __init__(self, halo: tuple[int, int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.halo = tuple(halo)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "halo": self.halo} if any(self.halo) else config

    def normalize_batch(self, inputs: Any) -> tuple[Any, Any, Any]:
        """TensorFlow's fused kernel cannot leave rows out."""
        return self._in_one_pass(inputs) if any(self.halo) else super().normalize_batch(inputs)

    def mean(self, values: Any) -> Any:
        """The mean over all pixels outside the halo, f32[C]."""
        if not any(self.halo):
            return super().mean(values)
        rows, (above, below) = values.shape[1], self.halo
        row = ops.reshape(ops.arange(rows), (1, -1, 1, 1))
        counted = ops.where((row >= above) & (row < rows - below), values, 0.0)
        return super().mean(counted) * (rows / (rows - above - below))
