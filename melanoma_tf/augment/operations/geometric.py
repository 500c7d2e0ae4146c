"""Geometric operations: flips, quarter turns, affine maps. Neighbors are composed into one."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

from keras import ops

from melanoma_tf.augment import geometry, random
from melanoma_tf.augment.operations.base import Op, check_bool, check_ranges, register
from melanoma_tf.augment.warp import coordinates


class DihedralOp(Op):
    """An operation whose parameters are symmetries i32[B] of a square: exact, and composed with its neighbors."""

    def apply(self, images: Any, params: Any) -> Any:
        """Applies symmetries i32[B] to images [B,H,W,C] of any dtype."""
        return geometry.dihedral(images, params)


@register("flip")
@dataclasses.dataclass(frozen=True)
class Flip(DihedralOp):
    """Mirrors left-right and top-bottom, each with probability one half. A lesion has no preferred side."""

    horizontal: bool = True
    vertical: bool = True

    def __post_init__(self) -> None:
        for field in ("horizontal", "vertical"):
            check_bool("flip", field, getattr(self, field))

    def draw(self, rng: random.Stream) -> Any:
        columns = ops.cast(rng.bernoulli(0, 0.5), "int32") * (geometry.FLIP_COLUMNS * self.horizontal)
        return columns + ops.cast(rng.bernoulli(1, 0.5), "int32") * (geometry.FLIP_ROWS * self.vertical)

    def apply(self, images: Any, params: Any) -> Any:
        """Applies symmetries i32[B] without transposition to images [B,H,W,C], which need not be square."""
        images = geometry.flip(images, ops.bitwise_and(params, geometry.FLIP_ROWS) > 0, axes=1)
        return geometry.flip(images, ops.bitwise_and(params, geometry.FLIP_COLUMNS) > 0, axes=2)


@register("quarter_turn")
@dataclasses.dataclass(frozen=True)
class QuarterTurn(DihedralOp):
    """Rotates by 0, 90, 180 or 270 degrees counter-clockwise, each equally likely."""

    def draw(self, rng: random.Stream) -> Any:
        turns = ops.cast(rng.uniform(0, 0.0, 4.0), "int32")
        t, r, c = geometry.TRANSPOSE, geometry.FLIP_ROWS, geometry.FLIP_COLUMNS
        # Counter-clockwise: transpose and flip the rows; both flips; transpose and flip the columns.
        return ops.take(ops.convert_to_tensor([0, t | r, r | c, t | c], dtype="int32"), turns)


class AffineOp(Op):
    """An operation that is an affine map, composed with its neighbors.

    Attributes:
      fill: beyond the edges: "reflect", "nearest" or "constant" (black).
    """

    fill: coordinates.Fill

    @property
    def max_zoom_out(self) -> float:
        """Largest factor by which images shrink; of normal draws, of the 95 % within two standard deviations."""
        return 1.0

    @abc.abstractmethod
    def matrix(self, params: Any, height: int, width: int) -> Any:
        """Matrices f32[B,3,3], see `geometry`."""

    @abc.abstractmethod
    def reach(self, inner: float) -> float:
        """Distance from the center, in sides, of the input pixels shown within `inner` of the output's center."""


def check_fill(name: str, fill: str) -> None:
    """Raises ValueError if the fill of an operation is unknown."""
    if fill not in coordinates.FILLS:
        raise ValueError(f"{name}: unknown fill {fill!r}; expected one of: {', '.join(coordinates.FILLS)}")


@register("crop")
@dataclasses.dataclass(frozen=True)
class Crop(AffineOp):
    """Enlarges a random square of the image to all of it: a random resized crop without a change of aspect ratio.

    Attributes:
      least: smallest side of the square as a fraction of the image's; drawn uniformly from [least, 1], and its place
        from all within the image.
      fill: see `AffineOp`; a crop shows nothing beyond the edges, but a neighbor that it is composed with may.
      p: probability.
    """

    least: float = 0.8
    fill: coordinates.Fill = "reflect"
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, p=1.0)
        if not (isinstance(self.least, float | int) and 0.25 <= self.least <= 1):
            raise ValueError(f"crop: least={self.least}; expected a number in [0.25, 1]")
        check_fill("crop", self.fill)

    def draw(self, rng: random.Stream) -> Any:
        side = ops.where(rng.bernoulli(3, self.p), rng.uniform(0, self.least, 1.0), 1.0)
        return side, *((1.0 - side) * rng.uniform(draw, -0.5, 0.5) for draw in (1, 2))

    def matrix(self, params: Any, height: int, width: int) -> Any:
        """Matrices f32[B,3,3], see `geometry`."""
        side, x, y = params
        zero = ops.zeros_like(side)
        return geometry.rows([[side, zero, x * width], [zero, side, y * height], [zero, zero, ops.ones_like(side)]])

    def reach(self, inner: float) -> float:
        """Distance from the center, in sides, of the input pixels shown within `inner` of the output's center."""
        return inner + math.sqrt(2.0) * (1.0 - self.least) / 2.0


@register("affine")
@dataclasses.dataclass(frozen=True)
class Affine(AffineOp):
    """Rotation, shear, zoom and shift in one resampling, together with neighboring flips and quarter turns.

    Parameters are drawn uniformly from [-value, value], or normally with the value as standard deviation.

    Attributes:
      rotate: degrees.
      shear: degrees.
      zoom: factors of width and height lie in 1 +- zoom, drawn separately.
      shift: fraction of width and height.
      normal: draw from normal distributions.
      fill: beyond the edges: "reflect", "nearest" or "constant" (black).
      p: probability.
    """

    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    normal: bool = False
    fill: coordinates.Fill = "reflect"
    p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, rotate=180.0, shear=45.0, zoom=0.75, shift=1.0, p=1.0)
        check_bool("affine", "normal", self.normal)
        check_fill("affine", self.fill)

    def draw(self, rng: random.Stream) -> Any:
        applied = rng.bernoulli(15, self.p)

        def symmetric(draw: int, spread: float) -> Any:
            unit = rng.normal(2 * draw) if self.normal else rng.uniform(2 * draw, -1.0, 1.0)
            return ops.where(applied, unit, 0.0) * spread

        # Normal numbers are unbounded: zooms are clipped to a quarter and four times, shears to 60 degrees.
        zooms = [ops.clip(1.0 + symmetric(draw, self.zoom), 0.25, 4.0) for draw in (2, 3)]
        shear = ops.clip(symmetric(1, self.shear), -60.0, 60.0)
        return (symmetric(0, self.rotate), shear, *zooms, symmetric(4, self.shift), symmetric(5, self.shift))

    def matrix(self, params: Any, height: int, width: int) -> Any:
        """Matrices f32[B,3,3], see `geometry`."""
        rotate, shear, zoom_x, zoom_y, shift_x, shift_y = params
        return geometry.matrix(rotate, shear, zoom_x, zoom_y, shift_x * width, shift_y * height)

    @property
    def max_zoom_out(self) -> float:
        """Largest factor by which images shrink; of normal draws, of the 95 % within two standard deviations."""
        return 1.0 / (1.0 - min(self._max_deviations * self.zoom, 0.75))

    def reach(self, inner: float) -> float:
        """Distance from the center, in sides, of the input pixels shown within `inner` of the output's center."""
        shear = 1.0 + math.tan(math.radians(min(self._max_deviations * self.shear, 60.0)))
        return inner * shear * self.max_zoom_out + math.sqrt(2.0) * self._max_deviations * self.shift

    @property
    def _max_deviations(self) -> float:
        return 2.0 if self.normal else 1.0
