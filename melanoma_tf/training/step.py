"""The training step: Keras' own, where a step that is not finite leaves no trace."""

from __future__ import annotations

from typing import Any

import keras

from melanoma_tf.devices.collectives import share_nan


class Trainer(keras.Model):
    """The model that is trained: Keras' own step, but statistics of batch norm that are not finite do not stay.

    A step with NaN in its activations is skipped by the optimizer; its moving statistics have to be undone too.
    """

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Keras' loss, of the targets mixed as the images are."""
        augment = self.get_layer("augment")
        if training and augment.mixes:
            y = augment.labels(y, x["seed"], *x["image"].shape[1:3])
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, *args: Any) -> Any:
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


def _finite_or(new: Any, old: Any) -> Any:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(new.dtype)):
        return new
    return keras.ops.where(keras.ops.isfinite(new), new, old)


class SkippingOptimizer(keras.optimizers.LossScaleOptimizer):
    """Skips steps whose gradients are not finite, and leaves the weights being trained alone when a `fit` ends.

    Keras would overwrite them with their moving averages there; `checkpoint.averaged` lends those where they are used.
    """

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """TensorFlow's way (JAX sums over devices before it asks the optimizer)."""
        super().apply(share_nan(grads, self.check_finite(grads)), trainable_variables)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Does nothing."""

    def reset_scale(self) -> None:
        """Undoes the halvings of skipped steps, which would add up to an underflow; float16 searches its own scale."""
        if self.initial_scale == 1.0:
            self.dynamic_scale.assign(1.0)
