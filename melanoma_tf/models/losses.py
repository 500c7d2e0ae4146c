"""Losses on logits, each one value per example; Keras averages them over the batch."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

LOSSES = ("focal", "class_balanced", "bce")


class SigmoidFocal(keras.losses.Loss):
    """Focal loss for binary labels: -alpha_t (1 - p_t)^gamma log(p_t), Lin et al. 2017, eq. 5.

    Computed from logits through softplus, so that it neither clips nor overflows. `gamma=0, alpha=None` is the
    binary cross-entropy.

    Args:
      gamma: focusing exponent, >= 0.
      alpha: weight of the positive class in (0, 1), 1 - alpha that of the negative; None for no weights.
      label_smoothing: in [0, 1); labels y become y (1 - s) + s / 2.
      pos_weight: > 0; multiplies the loss of the positive class, as in `tf.nn.weighted_cross_entropy_with_logits`.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        pos_weight: float = 1.0,
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
        if pos_weight <= 0:
            raise ValueError(f"pos_weight={pos_weight} must be positive")
        self.gamma, self.alpha, self.label_smoothing, self.pos_weight = gamma, alpha, label_smoothing, pos_weight

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """y_true: [B] or [B,1] in {0, 1}; y_pred: logits, float[B,1]. Returns float32[B]."""
        logits = ops.cast(ops.reshape(y_pred, (-1,)), "float32")
        labels = ops.cast(ops.reshape(y_true, (-1,)), "float32")
        labels = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        loss = self.pos_weight * labels * ops.softplus(-logits) + (1.0 - labels) * ops.softplus(logits)
        if self.gamma:
            wrong = labels * ops.sigmoid(-logits) + (1.0 - labels) * ops.sigmoid(logits)
            # 1e-12 is below float32's resolution of 1 - p_t, and keeps the gradient of x^gamma finite for gamma < 1.
            loss *= ops.power(ops.maximum(wrong, 1e-12), self.gamma)
        if self.alpha is not None:
            loss *= labels * self.alpha + (1.0 - labels) * (1.0 - self.alpha)
        return loss

    def get_config(self) -> dict[str, Any]:
        config = {"gamma": self.gamma, "alpha": self.alpha, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **config, "pos_weight": self.pos_weight}


class WithDiagnosis(keras.losses.Loss):
    """The loss of the target plus a softmax cross-entropy over the diagnoses.

    Args:
      target: loss of the target's logit; None where it follows from the diagnoses.
      weight: of the cross-entropy.
    """

    def __init__(
        self, target: keras.losses.Loss | None, weight: float, name: str = "with_diagnosis", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.target, self.weight = target, weight

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns float32[B].

        Args:
          y_true: f32[B,1+K], the target and the share of each diagnosis; all 0 where it is not known.
          y_pred: f32[B,1+K], the logit of the target and those of the diagnoses.
        """
        shares, logits = ops.cast(y_true[:, 1:], "float32"), ops.cast(y_pred[:, 1:], "float32")
        loss = -self.weight * ops.sum(shares * ops.log_softmax(logits), axis=-1)
        if self.target is not None:
            loss += ops.reshape(self.target.call(y_true[:, :1], y_pred[:, :1]), (-1,))
        return loss


def class_balanced_alpha(beta: float, positives: float, negatives: float) -> float:
    """The weight of the positive class by effective numbers of samples, Cui et al. 2019, eq. 3.

    A class of n images has the weight (1 - beta) / (1 - beta^n), relative to the other class; the factor with which the
    weights of the classes sum to their number in the paper is left out, because Adam's steps do not depend on it.

    Args:
      beta: in [0, 1); 0 gives 1/2, and near 1 the classes have equal weight in sum.
      positives: number of positive images.
      negatives: number of the others.

    Returns:
      alpha of `SigmoidFocal`, in (0, 1).
    """
    effective = [-math.expm1(n * math.log(beta)) if beta else 1.0 for n in (positives, negatives)]
    return effective[1] / (effective[0] + effective[1])


def build(
    name: str,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    label_smoothing: float = 0.0,
    pos_weight: float = 1.0,
) -> keras.losses.Loss:
    """The loss called `name`, on logits.

    "class_balanced" is the focal loss with an alpha of `class_balanced_alpha`; "bce" ignores gamma and alpha, and the
    focal losses ignore pos_weight, for which they have alpha.

    Raises:
      ValueError: unknown name.
    """
    if name in ("focal", "class_balanced"):
        return SigmoidFocal(gamma, alpha, label_smoothing)
    if name == "bce" and pos_weight != 1.0:
        return SigmoidFocal(0.0, None, label_smoothing, pos_weight)
    if name == "bce":
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    raise ValueError(f"unknown loss {name!r}; expected one of: {', '.join(LOSSES)}")
