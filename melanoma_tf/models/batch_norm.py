"""Batch normalisation in fewer passes over memory than the Keras layer, with the same numbers and weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("melanoma_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer with a training step of its own.

    Under TensorFlow by the fused kernel, two to four times as fast on a CPU: Keras composes the step of reductions and
    element-wise operations, each of which TensorFlow without XLA reads from memory and writes back. Under JAX mean and
    variance come from one pass over the inputs, which XLA joins with what makes them; Keras' variance needs the mean
    first, and reads them again. Masks, renormalisation, statistics over all replicas and an axis that
    is not the last are left to Keras.

    borrowed: rows at the upper and lower edge that are normalised but count in no mean, see `strips.py`.
    """

    def __init__(self, borrowed: tuple[int, int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.borrowed = tuple(borrowed)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "borrowed": self.borrowed} if any(self.borrowed) else config

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not self.trains(inputs, training, mask):
            return super().call(inputs, training=training, mask=mask)
        inputs = ops.cast(inputs, self.compute_dtype)
        fused = keras.backend.backend() == "tensorflow" and not any(self.borrowed)
        outputs, mean, variance = (self._fused if fused else self._in_one_pass)(inputs)
        self.keep(mean, variance)
        return outputs

    def trains(self, inputs: Any, training: bool | None, mask: Any) -> bool:
        """Whether this is a training step that is not left to Keras."""
        return bool(training and self.trainable and self._is_plain(inputs, mask))

    def keep(self, mean: Any, variance: Any) -> None:
        """Moves the moving statistics towards those of a batch."""
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))

    def _fused(self, inputs: Any) -> tuple[Any, Any, Any]:
        """(outputs, mean, variance) of [B,H,W,C]."""
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel returns the sample variance, n / (n - 1) of what Keras keeps.
        n = ops.cast(ops.prod(ops.shape(inputs)[:3]), "float32")
        return outputs, mean, variance * ((n - 1.0) / n)

    def _in_one_pass(self, inputs: Any) -> tuple[Any, Any, Any]:
        """As `_fused`; statistics, scale and offset in float32."""
        shift, distance, mean, variance = self.statistics(inputs)
        scale = ops.rsqrt(variance + self.epsilon) * self.gamma
        outputs = ops.cast(distance * scale + (self.beta - mean * scale), self.compute_dtype)
        return outputs, ops.stop_gradient(mean + shift), ops.stop_gradient(variance)

    def statistics(self, inputs: Any) -> tuple[Any, Any, Any, Any]:
        """(shift, distance of [B,H,W,C] from it, the mean of that, variance) in float32; means of rows not borrowed.

        The variance is E[d^2] - E[d]^2 of d, the distance from the moving mean: from zero, digits would be lost where
        a mean is large (Chan, Golub, LeVeque 1983, on shifted data).
        """
        shift = ops.stop_gradient(ops.convert_to_tensor(self.moving_mean))
        distance = ops.cast(inputs, "float32") - shift
        counted, share = distance, 1.0
        if any(self.borrowed):
            rows, (above, below) = inputs.shape[1], self.borrowed
            row = ops.reshape(ops.arange(rows), (1, -1, 1, 1))
            counted = ops.where((row >= above) & (row < rows - below), distance, 0.0)
            share = (rows - above - below) / rows
        mean = ops.mean(counted, (0, 1, 2)) / share
        square = ops.mean(counted * distance, (0, 1, 2)) / share
        return shift, distance, mean, ops.maximum(square - ops.square(mean), 0.0)

    def _is_plain(self, inputs: Any, mask: Any) -> bool:
        return (
            mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.center
            and self.scale
            and not (self.synchronized or getattr(self, "renorm", False))  # renorm: Keras 3.13 and later
        )
