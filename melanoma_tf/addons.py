"""Replacements in `keras.ops` for the parts of tensorflow-addons that this pipeline uses.

tensorflow-addons ended in 2024 and cannot be imported beside Keras 3. `make parity` compares these with its last
release. Losses take logits, warps are bilinear. Keras itself has AdamW, where weight decay is times the learning rate,
and moving averages (`use_ema`).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from melanoma_tf.augment import degradation, geometry, random
from melanoma_tf.augment.warp import affine
from melanoma_tf.models import losses
from melanoma_tf.training import optimizers
from melanoma_tf.training.optimizers import RectifiedAdam

__all__ = [
    "Lookahead",
    "RectifiedAdam",
    "SigmoidFocalCrossEntropy",
    "cutout",
    "random_cutout",
    "rotate",
    "transform",
]


class SigmoidFocalCrossEntropy(losses.SigmoidFocal):
    """`tfa.losses.SigmoidFocalCrossEntropy` of logits: focal loss with alpha 0.25 and gamma 2."""

    def __init__(
        self,
        from_logits: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        reduction: str = "none",
        name: str = "sigmoid_focal_crossentropy",
    ) -> None:
        """Creates the loss.

        Args:
          from_logits: must be True.
          alpha: weight of the positive class.
          gamma: focusing exponent.
          reduction: of `keras.losses.Loss`.
          name: of the loss.

        Raises:
          ValueError: from_logits is False; probabilities near 0 and 1 are rounded.
        """
        if not from_logits:
            raise ValueError("from_logits=False is not supported; pass the model's logits and from_logits=True")
        super().__init__(gamma, alpha, name=name, reduction=reduction)

    def get_config(self) -> dict[str, Any]:
        names = ("alpha", "gamma", "reduction", "name")
        return {"from_logits": True, **{name: getattr(self, name) for name in names}}


def Lookahead(  # noqa: N802
    optimizer: keras.optimizers.Optimizer, sync_period: int = 6, slow_step_size: float = 0.5
) -> keras.optimizers.Optimizer:
    """`tfa.optimizers.Lookahead`: a new optimizer of the same settings with slow weights.

    Args:
      optimizer: of Keras, or `RectifiedAdam`; not built yet. `exclude_from_weight_decay` is called on the result.
      sync_period: steps between two updates of the slow weights.
      slow_step_size: part of the way that the slow weights go.
    """
    added = optimizers.extended(type(optimizer), optimizers.Lookahead)
    return added.from_config({**optimizer.get_config(), "sync_period": sync_period, "slow_step_size": slow_step_size})


def transform(
    images: Any, transforms: Any, interpolation: str = "bilinear", fill_mode: str = "constant", fill_value: float = 0.0
) -> Any:
    """`tfa.image.transform` with bilinear interpolation (the original's default is nearest).

    Args:
      images: [B,H,W,C].
      transforms: f32[8] or f32[B,8], (a0, a1, a2, b0, b1, b2, 0, 0): the output pixel (x, y), counted from the upper
        left, is (a0 x + a1 y + a2, b0 x + b1 y + b2) of the input. The last two entries are ignored.
      interpolation: "bilinear".
      fill_mode: "constant", "nearest" or "reflect".
      fill_value: of "constant".

    Returns:
      f32[B,H,W,C].

    Raises:
      ValueError: another interpolation.
    """
    _check(interpolation)
    height, width = images.shape[1:3]
    entries = ops.reshape(ops.cast(transforms, "float32"), (-1, 8))
    entries = ops.broadcast_to(entries, (ops.shape(images)[0], 8))
    linear = ops.reshape(ops.take(entries, [0, 1, 3, 4], axis=1), (-1, 2, 2))
    # Coordinates from the upper left pixel become coordinates from the center, in output and input.
    center = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    shift = ops.take(entries, [2, 5], axis=1) + ops.sum(linear * center, axis=2) - center
    top = ops.concatenate([linear, shift[:, :, None]], axis=2)
    bottom = ops.broadcast_to(ops.convert_to_tensor([[[0.0, 0.0, 1.0]]]), (ops.shape(images)[0], 1, 3))
    fill: Any = fill_mode
    return affine.affine(images, ops.concatenate([top, bottom], axis=1), fill=fill, value=fill_value)


def rotate(
    images: Any, angles: Any, interpolation: str = "bilinear", fill_mode: str = "constant", fill_value: float = 0.0
) -> Any:
    """`tfa.image.rotate` with bilinear interpolation.

    Args:
      images: [B,H,W,C].
      angles: f32[] or f32[B], radians counter-clockwise.
      interpolation: "bilinear".
      fill_mode: "constant", "nearest" or "reflect".
      fill_value: of "constant".

    Returns:
      f32[B,H,W,C].

    Raises:
      ValueError: another interpolation.
    """
    _check(interpolation)
    degrees = ops.broadcast_to(ops.reshape(ops.cast(angles, "float32"), (-1,)), (ops.shape(images)[0],)) * (180 / np.pi)
    one, zero = ops.ones_like(degrees), ops.zeros_like(degrees)
    fill: Any = fill_mode
    matrices = geometry.matrix(degrees, zero, one, one, zero, zero)
    return affine.affine(images, matrices, fill=fill, value=fill_value)


def _check(interpolation: str) -> None:
    if interpolation != "bilinear":
        raise ValueError(f"unsupported interpolation {interpolation!r}; expected: bilinear")


def cutout(images: Any, mask_size: int | tuple[int, int], offset: Any = (0, 0), constant_values: float = 0.0) -> Any:
    """`tfa.image.cutout` with square masks.

    Args:
      images: [B,H,W,C].
      mask_size: side in pixels, even.
      offset: i32[2] or i32[B,2], (row, column) of the pixel below and to the right of the mask's center.
      constant_values: of the covered pixels.

    Returns:
      Like `images`.

    Raises:
      ValueError: the mask is not square or its side is odd.
    """
    height, width = images.shape[1:3]
    sides = (mask_size, mask_size) if isinstance(mask_size, int) else tuple(mask_size)
    if sides[0] != sides[1] or sides[0] % 2:
        raise ValueError(f"unsupported mask_size {mask_size}; expected one even number of pixels")
    position = ops.broadcast_to(ops.reshape(ops.cast(offset, "float32"), (-1, 2)), (ops.shape(images)[0], 2)) + 0.5
    size = ops.ones_like(position[:, 0]) * (sides[0] / min(height, width))
    return degradation.cutout(images, position[:, 1] / width, position[:, 0] / height, size, constant_values)


def random_cutout(images: Any, mask_size: int | tuple[int, int], seeds: Any, constant_values: float = 0.0) -> Any:
    """`tfa.image.random_cutout` with square masks.

    The masks lie inside the image; those of the policy operation `cutout` may be cut off at the edges.

    Args:
      images: [B,H,W,C].
      mask_size: side in pixels, even, at most that of the images.
      seeds: u32[B], one per image instead of one for the batch.
      constant_values: of the covered pixels.

    Returns:
      Like `images`.

    Raises:
      ValueError: the mask is not square or its side is odd.
    """
    half = (mask_size if isinstance(mask_size, int) else mask_size[0]) // 2
    rng = random.Stream(seeds)
    centers = [half + ops.floor(rng.uniform(axis) * (images.shape[1 + axis] - 2 * half)) for axis in (0, 1)]
    return cutout(images, mask_size, ops.stack(centers, axis=1), constant_values)
