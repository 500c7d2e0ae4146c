"""Training step that discards updates which are not finite."""

from __future__ import annotations

from typing import Any

import keras

from melanoma_tf.devices.collectives import share_nan


class Trainer(keras.Model):
    """Model whose training step discards batch norm statistics that are not finite.

    The optimizer skips a step with NaN in its activations; the moving statistics have to be restored as well.
    """

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Computes the loss against the labels, mixed in the same way as the images."""
        augment = self.get_layer("augment")
        if training and augment.mixes:
            y = augment.labels(y, x["seed"], *x["image"].shape[1:3])
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, *args: Any) -> Any:
        """Runs Keras' step of the backend and keeps finite batch norm statistics."""
        if keras.backend.backend() == "jax":
            state, batch = args
            logs, (trainable, statistics, *others) = super().train_step(state, batch)
            statistics = [_finite_or(new, old) for new, old in zip(statistics, state[1], strict=True)]
            return logs, (trainable, statistics, *others)
        statistics = [v for v in self.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        before = [keras.ops.copy(v) for v in statistics]
        logs = super().train_step(*args)
        for variable, old in zip(statistics, before, strict=True):
            variable.assign(_finite_or(variable.value, old))
        return logs


class MixedMetadata(keras.layers.Layer):
    """Mixes metadata in training as the images of a batch are mixed: f32[B,M], u32[B] -> f32[B,M].

    Args:
      augment: what mixes the images.
      size: side of the images, pixels.
    """

    def __init__(self, augment: Any, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment, self.size = augment, size

    def call(self, metadata: Any, seeds: Any, training: bool = False) -> Any:
        """Returns the metadata of each mix."""
        return self.augment.labels(metadata, seeds, self.size, self.size) if training else metadata

    def compute_output_shape(self, metadata_shape: Any, seeds_shape: Any = None) -> Any:
        """Returns the shape of the metadata."""
        return metadata_shape


def _finite_or(new: Any, old: Any) -> Any:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(new.dtype)):
        return new
    return keras.ops.where(keras.ops.isfinite(new), new, old)


class SkippingOptimizer(keras.optimizers.LossScaleOptimizer):
    """Optimizer that skips steps whose gradients are not finite and keeps the trained weights at the end of a `fit`.

    Keras would overwrite them with their moving averages; `checkpoint.averaged` swaps those in where they are used.
    """

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Makes NaN on one replica visible to all. TensorFlow only: JAX sums gradients before the optimizer."""
        super().apply(share_nan(grads, self.check_finite(grads)), trainable_variables)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Does nothing; Keras would assign the moving averages."""

    def reset_scale(self) -> None:
        """Resets a loss scale of 1, which skipped steps halve until it underflows; float16 adapts its own scale."""
        if self.initial_scale == 1.0:
            self.dynamic_scale.assign(1.0)
