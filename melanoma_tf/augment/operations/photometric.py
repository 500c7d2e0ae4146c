"""Photometric operations: color matrices, of which neighbors are composed into one pass, and gamma."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from keras import ops

from melanoma_tf.augment import color, random
from melanoma_tf.augment.operations.base import Op, PixelOp, check_ranges, register


class ColorMatrixOp(Op):
    """An operation whose effect is a color matrix of each image; neighbors are composed into one pass."""

    @abc.abstractmethod
    def matrix(self, images: Any, params: Any) -> Any:
        """Color matrices f32[B,3,4]. `images` float[B,H,W,3] is the input of the first of the composed operations."""


@register("color")
@dataclasses.dataclass(frozen=True)
class Color(ColorMatrixOp):
    """Changes brightness, contrast, saturation and hue, each drawn uniformly around the identity.

    Attributes:
      brightness: largest amount added, in [0,1].
      contrast: factors lie in 1 +- contrast.
      saturation: factors lie in 1 +- saturation.
      hue: largest turn; 0.5 is the opposite hue.
      gain: factors lie in 1 +- gain, drawn for each channel.
      p: probability.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gain: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, gain=1.0, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        applied = rng.bernoulli(7, self.p)

        def around(draw: int, identity: float, spread: float) -> Any:
            return ops.where(applied, rng.uniform(draw, identity - spread, identity + spread), identity)

        gains = ops.stack([around(4 + channel, 1.0, self.gain) for channel in range(3)], axis=1)
        matrices = color.matrix(
            around(0, 0.0, self.brightness),
            around(1, 1.0, self.contrast),
            around(2, 1.0, self.saturation),
            around(3, 0.0, self.hue),
        )
        return color.compose(matrices, color.gains(gains)) if self.gain else matrices

    def matrix(self, images: Any, params: Any) -> Any:
        return params


@register("grey_world")
@dataclasses.dataclass(frozen=True)
class GreyWorld(ColorMatrixOp):
    """Moves the color of the light towards or away from a grey mean.

    Attributes:
      strength: drawn uniformly from [-strength, strength]; 1 is fully grey.
      p: probability.
    """

    strength: float = 0.3
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, strength=1.0, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        return ops.where(rng.bernoulli(1, self.p), rng.uniform(0, -self.strength, self.strength), 0.0)

    def matrix(self, images: Any, params: Any) -> Any:
        return color.gains(color.grey_world(images, params))


@register("gamma")
@dataclasses.dataclass(frozen=True)
class Gamma(PixelOp):
    """Raises the values to a power.

    Attributes:
      strength: the exponent's logarithm is drawn uniformly from [-strength, strength].
      p: probability.
    """

    strength: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, strength=2.0, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        return ops.exp(ops.where(rng.bernoulli(1, self.p), rng.uniform(0, -self.strength, self.strength), 0.0))

    def apply(self, images: Any, params: Any) -> Any:
        return color.gamma(images, params)
