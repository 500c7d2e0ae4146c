"""Occlusions and degradations: cutout, hair, ink, ruler marks, the microscope's border, blur, noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from keras import ops

from melanoma_tf.augment import degradation, random
from melanoma_tf.augment.operations.base import DRAWS_PER_OP, PixelOp, check_ranges, register

_DRAWS_PER_HAIR = 7
_DRAWS_PER_STROKE = 5


@register("cutout")
@dataclasses.dataclass(frozen=True)
class Cutout(PixelOp):
    """Covers squares.

    Attributes:
      size: side, as a fraction of the image's shorter side.
      p: probability.
      holes: number of squares; many small ones are coarse dropout.
      value: of the covered pixels, in [0,1].
    """

    size: float = 0.375
    p: float = 1.0
    holes: int = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, size=1.0, p=1.0, holes=DRAWS_PER_OP // 2 - 1, value=1.0)

    def draw(self, rng: random.Stream) -> Any:
        size = ops.where(rng.bernoulli(0, self.p), self.size, 0.0)
        return [(rng.uniform(2 * n + 1), rng.uniform(2 * n + 2), size) for n in range(self.holes)]

    def apply(self, images: Any, params: Any) -> Any:
        for x, y, size in params:
            images = degradation.cutout(images, x, y, size, self.value)
        return images


def _up_to(most: int, rng: random.Stream, p: float, draws: int) -> Iterator[tuple[Any, list[Any]]]:
    """Yields for each of `most` arcs in which images it is drawn, bool[B], and its draws, each f32[B] in [0,1).

    With probability p an image has from 1 to all of them, else none.
    """
    count = ops.where(rng.bernoulli(0, p), rng.uniform(1, 1.0, most + 1.0), 0.0)
    for n in range(most):
        yield count >= n + 1, [rng.uniform(2 + draws * n + k) for k in range(draws)]


@register("hair")
@dataclasses.dataclass(frozen=True)
class Hair(PixelOp):
    """Draws slightly bent hairs over the lesion, most of them dark.

    Attributes:
      most: largest number of hairs; at least 1 is drawn.
      p: probability of any.
    """

    most: int = 20
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, most=(DRAWS_PER_OP - 2) // _DRAWS_PER_HAIR, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        strokes = []
        for drawn, values in _up_to(self.most, rng, self.p, _DRAWS_PER_HAIR):
            x, y, angle, bend, length, thickness, shade = values
            visible = ops.where(drawn, 0.003 + 0.006 * thickness, 0.0)  # 1 to 3.5 px at 384
            strokes.append((x, y, angle * math.pi, bend * 4.0 - 2.0, 0.2 + 0.6 * length, visible, shade**3 * 0.9))
        return strokes

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.arcs(images, params)


@register("ink")
@dataclasses.dataclass(frozen=True)
class Ink(PixelOp):
    """Draws strokes of a skin marker around the center, where the lesion is.

    Attributes:
      most: largest number of strokes; at least 1 is drawn.
      p: probability of any.
    """

    most: int = 4
    p: float = 0.3

    def __post_init__(self) -> None:
        check_ranges(self, most=(DRAWS_PER_OP - 2) // _DRAWS_PER_STROKE, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        strokes = []
        for drawn, (turn, radius, length, thickness, shade) in _up_to(self.most, rng, self.p, _DRAWS_PER_STROKE):
            turn, radius = turn * (2.0 * math.pi), 0.3 + 0.15 * radius
            x, y = 0.5 + radius * ops.cos(turn), 0.5 + radius * ops.sin(turn)
            visible = ops.where(drawn, 0.01 + 0.02 * thickness, 0.0)  # 4 to 12 px at 384
            # An arc of the circle around the center.
            strokes.append((x, y, turn + math.pi / 2, 1.0 / radius, 0.1 + 0.2 * length, visible, 0.5 + 0.5 * shade))
        return strokes

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.arcs(images, params, degradation.MARKER)


@register("ruler")
@dataclasses.dataclass(frozen=True)
class Ruler(PixelOp):
    """Draws the ticks of a ruler along one of the edges.

    Attributes:
      length: of a short tick, as a fraction of the image's shorter side.
      p: probability.
    """

    length: float = 0.05
    p: float = 0.3

    def __post_init__(self) -> None:
        check_ranges(self, length=0.5, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        edge = ops.cast(rng.uniform(1, 0.0, 4.0), "int32")
        length = ops.where(rng.bernoulli(0, self.p), self.length, 0.0)
        return edge, rng.uniform(2), rng.uniform(3, 0.03, 0.08), length  # a field of 12 to 33 mm

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.ruler(images, *params)


@register("microscope")
@dataclasses.dataclass(frozen=True)
class Microscope(PixelOp):
    """Adds the round black border of a dermoscope.

    Attributes:
      low: smallest radius, as a fraction of the shorter side.
      high: largest radius.
      p: probability.
    """

    low: float = 0.4
    high: float = 0.6
    p: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, low=1.0, high=1.0, p=1.0)
        if self.low > self.high:
            raise ValueError(f"microscope: low={self.low} exceeds high={self.high}; expected low <= high")

    def draw(self, rng: random.Stream) -> Any:
        return ops.where(rng.bernoulli(1, self.p), rng.uniform(0, self.low, self.high), 2.0)

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.microscope(images, params)


@register("blur")
@dataclasses.dataclass(frozen=True)
class Blur(PixelOp):
    """Gaussian blur.

    Attributes:
      sigma: largest standard deviation in pixels, drawn uniformly from 0.
      p: probability.
    """

    sigma: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, sigma=5.0, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        return ops.where(rng.bernoulli(1, self.p), rng.uniform(0, 0.0, self.sigma), 0.0)

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.blur(images, params, self.sigma)


@register("noise")
@dataclasses.dataclass(frozen=True)
class Noise(PixelOp):
    """Gaussian noise, independent for each value.

    Attributes:
      sigma: largest standard deviation, of values in [0,1], drawn uniformly from 0.
      p: probability.
    """

    sigma: float = 0.02
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, sigma=1.0, p=1.0)

    def draw(self, rng: random.Stream) -> Any:
        sigma = ops.where(rng.bernoulli(1, self.p), rng.uniform(0, 0.0, self.sigma), 0.0)
        return rng.split(2), sigma

    def apply(self, images: Any, params: Any) -> Any:
        return degradation.noise(images, *params)
