"""Losses on logits, each one value per example; Keras averages them over the batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

LOSSES = ("focal", "bce")


class SigmoidFocal(keras.losses.Loss):
    """Focal loss for binary labels: -alpha_t (1 - p_t)^gamma log(p_t), Lin et al. 2017, eq. 5.

    Computed from logits through softplus, so that it neither clips nor overflows. `gamma=0, alpha=None` is the
    binary cross-entropy.

    Args:
      gamma: focusing exponent, >= 0.
      alpha: weight of the positive class in (0, 1), 1 - alpha that of the negative; None for no weights.
      label_smoothing: in [0, 1); labels y become y (1 - s) + s / 2.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        name: str = "sigmoid_focal",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if gamma < 0:
            raise ValueError(f"gamma={gamma} must not be negative")
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha={alpha} must lie in (0, 1), or be None")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.gamma, self.alpha, self.label_smoothing = gamma, alpha, label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """y_true: [B] or [B,1] in {0, 1}; y_pred: logits, float[B,1]. Returns float32[B]."""
        logits = ops.cast(ops.reshape(y_pred, (-1,)), "float32")
        labels = ops.cast(ops.reshape(y_true, (-1,)), "float32")
        labels = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        loss = labels * ops.softplus(-logits) + (1.0 - labels) * ops.softplus(logits)
        if self.gamma:
            wrong = labels * ops.sigmoid(-logits) + (1.0 - labels) * ops.sigmoid(logits)
            # 1e-12 is below float32's resolution of 1 - p_t, and keeps the gradient of x^gamma finite for gamma < 1.
            loss *= ops.power(ops.maximum(wrong, 1e-12), self.gamma)
        if self.alpha is not None:
            loss *= labels * self.alpha + (1.0 - labels) * (1.0 - self.alpha)
        return loss

    def get_config(self) -> dict[str, Any]:
        config = {"gamma": self.gamma, "alpha": self.alpha, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **config}


def build(name: str, *, gamma: float, alpha: float | None, label_smoothing: float) -> keras.losses.Loss:
    """The loss called `name`, on logits; "bce" ignores gamma and alpha.

    Raises:
      ValueError: unknown name.
    """
    if name == "focal":
        return SigmoidFocal(gamma, alpha, label_smoothing)
    if name == "bce":
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    raise ValueError(f"unknown loss {name!r}; expected one of: {', '.join(LOSSES)}")
