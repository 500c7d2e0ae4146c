"""Augmentation operations: frozen dataclasses that draw random parameters and apply them.

A new operation is a frozen dataclass under `@register("name")` in one of the modules here: a `PixelOp` with `draw` and
`apply`, or a `ColorMatrixOp` or `DihedralOp`, which are composed with their neighbors.
"""

from melanoma_tf.augment.operations.base import DRAWS_PER_OP, OPS, Op, PixelOp, register
from melanoma_tf.augment.operations.degradations import Blur, Cutout, Hair, Ink, Microscope, Noise, Ruler
from melanoma_tf.augment.operations.geometric import AffineOp, DihedralOp, Flip, QuarterTurn
from melanoma_tf.augment.operations.mixes import Cutmix, MixOp, Mixup
from melanoma_tf.augment.operations.photometric import Color, ColorMatrixOp, Gamma, GreyWorld

__all__ = [
    "DRAWS_PER_OP",
    "OPS",
    "AffineOp",
    "Blur",
    "Color",
    "ColorMatrixOp",
    "Cutmix",
    "Cutout",
    "DihedralOp",
    "Flip",
    "Gamma",
    "GreyWorld",
    "Hair",
    "Ink",
    "Microscope",
    "MixOp",
    "Mixup",
    "Noise",
    "Op",
    "PixelOp",
    "QuarterTurn",
    "Ruler",
    "register",
]
