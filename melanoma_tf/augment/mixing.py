"""Mixing of two examples of a batch: mixup and cutmix, with their labels.

Each example is mixed with the one after it in the batch, so, unlike every other augmentation, what it becomes depends
on the batch it is in. How much, and where, depends on its own seed alone.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from melanoma_tf.augment import occlusion


def partner(values: Any) -> Any:
    """Of each example of a batch [B,...], the one it is mixed with."""
    return ops.roll(values, -1, axis=0)


def mixup(images: Any, share: Any) -> Any:
    """`share` f32[B] of each image [B,H,W,C] and the rest of its partner (H. Zhang et al. 2018)."""
    share = ops.cast(share, images.dtype)[:, None, None, None]
    return share * images + (1.0 - share) * partner(images)


def cutmix(images: Any, centre_x: Any, centre_y: Any, size: Any) -> tuple[Any, Any]:
    """A square of the partner pasted into each image (S. Yun et al. 2019); see `occlusion.cutout`.

    Returns:
      The images [B,H,W,C], and f32[B] how much of each is its own.
    """
    covered = occlusion.cutout(ops.ones_like(images[..., :1]), centre_x, centre_y, size)
    return ops.where(covered > 0, images, partner(images)), ops.mean(ops.cast(covered, "float32"), axis=(1, 2, 3))


def labels(values: Any, share: Any) -> Any:
    """What belongs to mixed images, targets f32[B] or metadata f32[B,...], each image's own by `share` f32[B]."""
    values = ops.cast(values, "float32")
    share = ops.reshape(share, (-1, *(1 for _ in values.shape[1:])))
    return share * values + (1.0 - share) * partner(values)
