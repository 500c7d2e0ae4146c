"""Mixing operations: mixup and cutmix."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from keras import ops

from melanoma_tf.augment import mixing, random
from melanoma_tf.augment.operations.base import PixelOp, check_ranges, register


@dataclasses.dataclass(frozen=True)
class MixOp(PixelOp):
    """An operation that mixes each example, and its label, with the next one of the batch.

    Attributes:
      alpha: of the Beta(alpha, alpha) distribution.
      p: probability.
    """

    alpha: float
    p: float

    def __post_init__(self) -> None:
        check_ranges(self, alpha=10.0, p=1.0)
        if not self.alpha:
            raise ValueError(f"{type(self).__name__.lower()}: alpha=0; expected a number above 0")

    @abc.abstractmethod
    def share(self, params: Any, height: int, width: int) -> Any:
        """Share f32[B] in [0,1] of the label that is the example's own."""


@register("mixup")
@dataclasses.dataclass(frozen=True)
class Mixup(MixOp):
    """Weighted mean of two images and of their labels; the weight is drawn from Beta(alpha, alpha)."""

    alpha: float = 0.2
    p: float = 1.0

    def draw(self, rng: random.Stream) -> Any:
        return ops.where(rng.bernoulli(1, self.p), random.beta(rng.uniform(0), self.alpha), 1.0)

    def apply(self, images: Any, params: Any) -> Any:
        return mixing.mixup(images, params)

    def share(self, params: Any, height: int, width: int) -> Any:
        return params


@register("cutmix")
@dataclasses.dataclass(frozen=True)
class Cutmix(MixOp):
    """Pastes a square of the next image, with its share of the label; the area is drawn from Beta(alpha, alpha)."""

    alpha: float = 1.0
    p: float = 0.5

    def draw(self, rng: random.Stream) -> Any:
        side = ops.sqrt(random.beta(rng.uniform(0), self.alpha))
        return rng.uniform(1), rng.uniform(2), ops.where(rng.bernoulli(3, self.p), side, 0.0)

    def apply(self, images: Any, params: Any) -> Any:
        return mixing.cutmix(images, *params)[0]

    def share(self, params: Any, height: int, width: int) -> Any:
        blank = ops.ones((ops.shape(params[0])[0], height, width, 1))
        return mixing.cutmix(blank, *params)[1]
