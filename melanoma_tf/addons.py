"""What this pipeline needs of tensorflow-addons, under its names, in `keras.ops`: of logits, and bilinear.

tensorflow-addons ended in 2024 and does not import beside Keras 3. `make parity` compares these with its last release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment import geometry, occlusion, random
from melanoma_tf.models import losses


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
        """Raises ValueError without from_logits: probabilities have lost what is small."""
        if not from_logits:
            raise ValueError("from_logits=False is not offered; give the model's logits and from_logits=True")
        super().__init__(gamma, alpha, name=name, reduction=reduction)

    def get_config(self) -> dict[str, Any]:
        names = ("alpha", "gamma", "reduction", "name")
        return {"from_logits": True, **{name: getattr(self, name) for name in names}}


def transform(
    images: Any, transforms: Any, interpolation: str = "bilinear", fill_mode: str = "constant", fill_value: float = 0.0
) -> Any:
    """`tfa.image.transform`, bilinear (its own default is nearest).

    Args:
      images: [B,H,W,C].
      transforms: f32[8] or f32[B,8], (a0, a1, a2, b0, b1, b2, 0, 0), of which the last two are not looked at: the
        output pixel (x, y), counted from the upper left one, is (a0 x + a1 y + a2, b0 x + b1 y + b2) of the input.
      fill_mode: "constant", "nearest" or "reflect".

    Returns:
      f32[B,H,W,C].
    """
    _check(interpolation)
    height, width = images.shape[1:3]
    entries = ops.reshape(ops.cast(transforms, "float32"), (-1, 8))
    entries = ops.broadcast_to(entries, (ops.shape(images)[0], 8))
    linear = ops.reshape(ops.take(entries, [0, 1, 3, 4], axis=1), (-1, 2, 2))
    # From the upper left pixel to the centre, on both sides.
    centre = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    shift = ops.take(entries, [2, 5], axis=1) + ops.sum(linear * centre, axis=2) - centre
    top = ops.concatenate([linear, shift[:, :, None]], axis=2)
    bottom = ops.broadcast_to(ops.convert_to_tensor([[[0.0, 0.0, 1.0]]]), (ops.shape(images)[0], 1, 3))
    fill: Any = fill_mode
    return geometry.affine(images, ops.concatenate([top, bottom], axis=1), fill=fill, value=fill_value)


def rotate(
    images: Any, angles: Any, interpolation: str = "bilinear", fill_mode: str = "constant", fill_value: float = 0.0
) -> Any:
    """`tfa.image.rotate`, bilinear: by `angles` in radians, counter-clockwise. See `transform`."""
    _check(interpolation)
    degrees = ops.broadcast_to(ops.reshape(ops.cast(angles, "float32"), (-1,)), (ops.shape(images)[0],)) * (180 / np.pi)
    one, zero = ops.ones_like(degrees), ops.zeros_like(degrees)
    fill: Any = fill_mode
    turned = geometry.matrix(degrees, zero, one, one, zero, zero)
    return geometry.affine(images, turned, fill=fill, value=fill_value)


def _check(interpolation: str) -> None:
    if interpolation != "bilinear":
        raise ValueError(f"interpolation {interpolation!r}; expected bilinear")


def cutout(images: Any, mask_size: int | tuple[int, int], offset: Any = (0, 0), constant_values: float = 0.0) -> Any:
    """`tfa.image.cutout` of square masks.

    Args:
      images: [B,H,W,C].
      mask_size: side in pixels, even.
      offset: i32[2] or i32[B,2], (row, column) of the pixel behind and below the middle.
    """
    height, width = images.shape[1:3]
    sides = (mask_size, mask_size) if isinstance(mask_size, int) else tuple(mask_size)
    if sides[0] != sides[1] or sides[0] % 2:
        raise ValueError(f"mask_size {mask_size}; expected one even number of pixels")
    place = ops.broadcast_to(ops.reshape(ops.cast(offset, "float32"), (-1, 2)), (ops.shape(images)[0], 2)) + 0.5
    size = ops.ones_like(place[:, 0]) * (sides[0] / min(height, width))
    return occlusion.cutout(images, place[:, 1] / width, place[:, 0] / height, size, constant_values)


def random_cutout(images: Any, mask_size: int | tuple[int, int], seeds: Any, constant_values: float = 0.0) -> Any:
    """`tfa.image.random_cutout` of square masks, which lie wholly inside; those of a policy's `cutout` may be cut off.

    Args:
      images: [B,H,W,C].
      mask_size: side in pixels, even, at most that of the images.
      seeds: u32[B], of each image, instead of one for all.
    """
    half = (mask_size if isinstance(mask_size, int) else mask_size[0]) // 2
    numbers = random.Numbers(seeds)
    middles = [half + ops.floor(numbers.uniform(axis) * (images.shape[1 + axis] - 2 * half)) for axis in (0, 1)]
    return cutout(images, mask_size, ops.stack(middles, axis=1), constant_values)
