"""Mixup and cutmix of the examples of a batch and of their labels.

Each example is mixed with the next one of the batch, so that, unlike in every other augmentation, the result depends on
the batch. The proportion and the position depend on the example's own seed alone.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from melanoma_tf.augment import degradation


def partner(values: Any) -> Any:
    """Values [B,...] of the example that each example is mixed with."""
    return ops.roll(values, -1, axis=0)


def mixup(images: Any, share: Any) -> Any:
    """Weighted mean of each image and its partner (H. Zhang et al. 2018).

    Args:
      images: float[B,H,W,C].
      share: f32[B] in [0,1], weight of the image itself.

    Returns:
      Like `images`.
    """
    share = ops.cast(share, images.dtype)[:, None, None, None]
    return share * images + (1.0 - share) * partner(images)


def cutmix(images: Any, center_x: Any, center_y: Any, size: Any) -> tuple[Any, Any]:
    """Pastes a square of the partner into each image (S. Yun et al. 2019).

    Args:
      images: float[B,H,W,C].
      center_x: f32[B] in [0,1), see `degradation.cutout`.
      center_y: f32[B] in [0,1).
      size: f32[B], side of the square as a fraction of the shorter side.

    Returns:
      The images [B,H,W,C], and f32[B] the share of each that is its own.
    """
    mask = degradation.cutout(ops.ones_like(images[..., :1]), center_x, center_y, size)
    return ops.where(mask > 0, images, partner(images)), ops.mean(ops.cast(mask, "float32"), axis=(1, 2, 3))


def labels(values: Any, share: Any) -> Any:
    """Weighted mean of each example's targets or metadata and its partner's.

    Args:
      values: f32[B,...].
      share: f32[B] in [0,1], weight of the example itself.

    Returns:
      f32[B,...].
    """
    values = ops.cast(values, "float32")
    share = ops.reshape(share, (-1, *(1 for _ in values.shape[1:])))
    return share * values + (1.0 - share) * partner(values)
