"""The operations of augmentation: what each draws and what it does, on top of the arithmetic beside this module.

A new one is a frozen dataclass under a `@register("name")` line: a `Pixels` with `draw` and `apply`, or one of the
kinds that are composed with their neighbours.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from melanoma_tf.augment import color, geometry, mixing, occlusion, random

DRAWS_PER_OP = 256  # each operation of a policy has its own range of draw numbers


class Op(abc.ABC):
    """One augmentation: `draw` makes the random parameters, what else a kind has is a pure function of them."""

    @abc.abstractmethod
    def draw(self, numbers: random.Numbers) -> Any:
        """The parameters, a structure of [B,...]."""


class Pixels(Op):
    """Anything that is done to the pixels by itself."""

    @abc.abstractmethod
    def apply(self, images: Any, parameters: Any) -> Any:
        """images: float32[B,H,W,3] in [0,1] or a little beyond -> the same."""


OPS: dict[str, type[Any]] = {}


def register(name: str) -> Callable[[type[Any]], type[Any]]:
    """Makes an operation available to policies as `name`."""

    def add(op: type[Any]) -> type[Any]:
        OPS[name] = op
        return op

    return add


def _check(op: Any, **most: float) -> None:
    name = next(name for name, kind in OPS.items() if kind is type(op))
    for field, limit in most.items():
        value = getattr(op, field)
        whole = isinstance(limit, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value <= limit:
            raise ValueError(
                f"{name}: {field}={value!r} must {'be a whole number' if whole else 'lie'} in [0, {limit}]"
            )


# ----------------------------------------------------------------------------------------------------- geometry


class Symmetric(Op):
    """Geometry whose parameters are symmetries i32[B] of a square: neighbours are composed, pixels only moved."""

    def apply(self, images: Any, parameters: Any) -> Any:
        """images: [B,H,W,C], any dtype."""
        return geometry.dihedral(images, parameters)


@register("flip")
@dataclasses.dataclass(frozen=True)
class Flip(Symmetric):
    """Mirrors left-right and top-bottom, each with probability one half. A lesion has no preferred side."""

    horizontal: bool = True
    vertical: bool = True

    def __post_init__(self) -> None:
        for field in ("horizontal", "vertical"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"flip: {field}={getattr(self, field)!r} must be True or False")

    def draw(self, numbers: random.Numbers) -> Any:
        columns = ops.cast(numbers.chosen(0, 0.5), "int32") * (geometry.FLIP_COLUMNS * self.horizontal)
        return columns + ops.cast(numbers.chosen(1, 0.5), "int32") * (geometry.FLIP_ROWS * self.vertical)

    def apply(self, images: Any, parameters: Any) -> Any:
        """images: [B,H,W,C], any dtype; they need not be square."""
        images = geometry.flip(images, ops.bitwise_and(parameters, geometry.FLIP_ROWS) > 0, axes=1)
        return geometry.flip(images, ops.bitwise_and(parameters, geometry.FLIP_COLUMNS) > 0, axes=2)


@register("quarter_turn")
@dataclasses.dataclass(frozen=True)
class QuarterTurn(Symmetric):
    """Turns by 0, 90, 180 or 270 degrees counter-clockwise, each equally likely."""

    def draw(self, numbers: random.Numbers) -> Any:
        turns = ops.cast(numbers.uniform(0, 0.0, 4.0), "int32")
        t, r, c = geometry.TRANSPOSE, geometry.FLIP_ROWS, geometry.FLIP_COLUMNS
        # Counter-clockwise: transpose and flip the rows; both flips; transpose and flip the columns.
        return ops.take(ops.convert_to_tensor([0, t | r, r | c, t | c], dtype="int32"), turns)


@register("affine")
@dataclasses.dataclass(frozen=True)
class Affine(Op):
    """Rotation, shear, zoom and shift as one resampling, also with the flips and quarter turns beside it.

    rotate, shear: degrees. zoom: factors of width and height in 1 +- this, each its own. shift: of width and height.
    All drawn uniformly between minus and plus the value; normal=True: normally, with the value as standard deviation.
    fill: "reflect", "nearest" or "constant" (black). p: probability.
    """

    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    normal: bool = False
    fill: geometry.Fill = "reflect"
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, rotate=180.0, shear=45.0, zoom=0.75, shift=1.0, p=1.0)
        if not isinstance(self.normal, bool):
            raise ValueError(f"affine: normal={self.normal!r} must be True or False")
        if self.fill not in geometry.FILLS:
            raise ValueError(f"affine: fill={self.fill!r}; expected one of {', '.join(geometry.FILLS)}")

    def draw(self, numbers: random.Numbers) -> Any:
        def around(draw: int, spread: float) -> Any:
            wide = numbers.normal(2 * draw) if self.normal else numbers.uniform(2 * draw, -1.0, 1.0)
            return ops.where(chosen, wide, 0.0) * spread

        chosen = numbers.chosen(15, self.p)
        # Normal numbers have no end: a zoom stays within a quarter and four times, a shear below 60 degrees.
        zooms = [ops.clip(1.0 + around(draw, self.zoom), 0.25, 4.0) for draw in (2, 3)]
        shear = ops.clip(around(1, self.shear), -60.0, 60.0)
        return (around(0, self.rotate), shear, *zooms, around(4, self.shift), around(5, self.shift))

    def matrix(self, parameters: Any, height: int, width: int) -> Any:
        """f32[B,3,3], see `geometry`."""
        rotate, shear, zoom_x, zoom_y, shift_x, shift_y = parameters
        return geometry.matrix(rotate, shear, zoom_x, zoom_y, shift_x * width, shift_y * height)

    @property
    def zooms_out(self) -> float:
        """By how much at most; of normal numbers 95 % are within two standard deviations."""
        return 1.0 / (1.0 - min(self._widest * self.zoom, 0.75))

    def reach(self, inner: float) -> float:
        """How far from the centre, in sides, it shows what reaches as far as `inner` in what it makes."""
        shear = 1.0 + math.tan(math.radians(min(self._widest * self.shear, 60.0)))
        return inner * shear * self.zooms_out + math.sqrt(2.0) * self._widest * self.shift

    @property
    def _widest(self) -> float:
        return 2.0 if self.normal else 1.0


# ------------------------------------------------------------------------------------------------------- colour


class Linear(Op):
    """Colour whose effect is a matrix f32[B,3,4] of each image: neighbours are composed to one pass over the pixels."""

    @abc.abstractmethod
    def matrix(self, images: Any, parameters: Any) -> Any:
        """images: what the first of the composed operations sees."""


@register("color")
@dataclasses.dataclass(frozen=True)
class Color(Linear):
    """Brightness, contrast, saturation and hue, each drawn uniformly around "no change".

    brightness: largest amount added, of 1. contrast, saturation, gain: factors in 1 +- this; gain of each channel by
    itself. hue: largest turn, 0.5 is half. p: probability.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gain: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, gain=1.0, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        chosen = numbers.chosen(7, self.p)

        def around(draw: int, middle: float, spread: float) -> Any:
            return ops.where(chosen, numbers.uniform(draw, middle - spread, middle + spread), middle)

        gains = ops.stack([around(4 + channel, 1.0, self.gain) for channel in range(3)], axis=1)
        changed = color.matrix(
            around(0, 0.0, self.brightness),
            around(1, 1.0, self.contrast),
            around(2, 1.0, self.saturation),
            around(3, 0.0, self.hue),
        )
        return color.together(changed, color.gains(gains)) if self.gain else changed

    def matrix(self, images: Any, parameters: Any) -> Any:
        return parameters


@register("grey_world")
@dataclasses.dataclass(frozen=True)
class GreyWorld(Linear):
    """Moves the light's colour towards or away from what makes the mean of the image grey.

    strength: drawn uniformly between minus and plus this; 1 is all the way.
    """

    strength: float = 0.3
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, strength=1.0, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        return ops.where(numbers.chosen(1, self.p), numbers.uniform(0, -self.strength, self.strength), 0.0)

    def matrix(self, images: Any, parameters: Any) -> Any:
        return color.gains(color.grey_world(images, parameters))


@register("gamma")
@dataclasses.dataclass(frozen=True)
class Gamma(Pixels):
    """Powers of the values; the exponent's logarithm is drawn uniformly between minus and plus `strength`."""

    strength: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, strength=2.0, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        return ops.exp(ops.where(numbers.chosen(1, self.p), numbers.uniform(0, -self.strength, self.strength), 0.0))

    def apply(self, images: Any, parameters: Any) -> Any:
        return color.gamma(images, parameters)


# ---------------------------------------------------------------------------------------------------- occlusion


@register("cutout")
@dataclasses.dataclass(frozen=True)
class Cutout(Pixels):
    """Covers squares. size: side, of the shorter side of the image. holes: how many (many small ones: coarse dropout).

    value: what is put there, of 1.
    """

    size: float = 0.375
    p: float = 1.0
    holes: int = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        _check(self, size=1.0, p=1.0, holes=DRAWS_PER_OP // 2 - 1, value=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        size = ops.where(numbers.chosen(0, self.p), self.size, 0.0)
        return [(numbers.uniform(2 * n + 1), numbers.uniform(2 * n + 2), size) for n in range(self.holes)]

    def apply(self, images: Any, parameters: Any) -> Any:
        for x, y, size in parameters:
            images = occlusion.cutout(images, x, y, size, self.value)
        return images


@register("hair")
@dataclasses.dataclass(frozen=True)
class Hair(Pixels):
    """Draws hairs over the lesion: 1 to `most`, dark or (rarely) light, slightly bent. p: probability of any."""

    most: int = 20
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, most=(DRAWS_PER_OP - 2) // 7, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        count = ops.where(numbers.chosen(0, self.p), numbers.uniform(1, 1.0, self.most + 1.0), 0.0)
        strokes = []
        for n in range(self.most):
            draws = [numbers.uniform(2 + 7 * n + k) for k in range(7)]
            thickness = ops.where(count >= n + 1, 0.003 + 0.006 * draws[5], 0.0)  # 1 to 3.5 px at 384
            strokes.append(
                (
                    draws[0],
                    draws[1],
                    draws[2] * math.pi,
                    draws[3] * 4.0 - 2.0,
                    0.2 + 0.6 * draws[4],
                    thickness,
                    draws[6] ** 3 * 0.9,
                )
            )
        return strokes

    def apply(self, images: Any, parameters: Any) -> Any:
        return occlusion.hairs(images, parameters)


@register("microscope")
@dataclasses.dataclass(frozen=True)
class Microscope(Pixels):
    """The round black border of a dermoscope. low, high: its radius, of the shorter side."""

    low: float = 0.4
    high: float = 0.6
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, low=1.0, high=1.0, p=1.0)
        if self.low > self.high:
            raise ValueError(f"microscope: low={self.low} is more than high={self.high}")

    def draw(self, numbers: random.Numbers) -> Any:
        return ops.where(numbers.chosen(1, self.p), numbers.uniform(0, self.low, self.high), 2.0)

    def apply(self, images: Any, parameters: Any) -> Any:
        return occlusion.microscope(images, parameters)


@register("blur")
@dataclasses.dataclass(frozen=True)
class Blur(Pixels):
    """Gaussian blur with a standard deviation of 0 to `sigma` pixels."""

    sigma: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, sigma=5.0, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        return ops.where(numbers.chosen(1, self.p), numbers.uniform(0, 0.0, self.sigma), 0.0)

    def apply(self, images: Any, parameters: Any) -> Any:
        return occlusion.blur(images, parameters, self.sigma)


@register("noise")
@dataclasses.dataclass(frozen=True)
class Noise(Pixels):
    """Gaussian noise of each value, with a standard deviation of 0 to `sigma`, of 1."""

    sigma: float = 0.02
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(self, sigma=1.0, p=1.0)

    def draw(self, numbers: random.Numbers) -> Any:
        sigma = ops.where(numbers.chosen(1, self.p), numbers.uniform(0, 0.0, self.sigma), 0.0)
        return numbers.further_seeds(2), sigma

    def apply(self, images: Any, parameters: Any) -> Any:
        return occlusion.noise(images, *parameters)


# ------------------------------------------------------------------------------------------------------- mixing


@dataclasses.dataclass(frozen=True)
class Mixing(Pixels):
    """Mixes each example with the next of its batch; `share` of the label stays its own."""

    alpha: float
    p: float

    def __post_init__(self) -> None:
        _check(self, alpha=10.0, p=1.0)
        if not self.alpha:
            name = type(self).__name__.lower()
            raise ValueError(f"{name}: alpha=0 must be above 0")

    @abc.abstractmethod
    def share(self, parameters: Any, height: int, width: int) -> Any:
        """f32[B] in [0,1]."""


@register("mixup")
@dataclasses.dataclass(frozen=True)
class Mixup(Mixing):
    """A weighted mean of two images and of their labels; the weight is drawn from Beta(alpha, alpha)."""

    alpha: float = 0.2
    p: float = 1.0

    def draw(self, numbers: random.Numbers) -> Any:
        return ops.where(numbers.chosen(1, self.p), _beta(numbers.uniform(0), self.alpha), 1.0)

    def apply(self, images: Any, parameters: Any) -> Any:
        return mixing.mixup(images, parameters)

    def share(self, parameters: Any, height: int, width: int) -> Any:
        return parameters


@register("cutmix")
@dataclasses.dataclass(frozen=True)
class Cutmix(Mixing):
    """A square of the next image pasted in, with its part of the label; its area is drawn from Beta(alpha, alpha)."""

    alpha: float = 1.0
    p: float = 0.5

    def draw(self, numbers: random.Numbers) -> Any:
        side = ops.sqrt(_beta(numbers.uniform(0), self.alpha))
        return numbers.uniform(1), numbers.uniform(2), ops.where(numbers.chosen(3, self.p), side, 0.0)

    def apply(self, images: Any, parameters: Any) -> Any:
        return mixing.cutmix(images, *parameters)[0]

    def share(self, parameters: Any, height: int, width: int) -> Any:
        blank = ops.ones((ops.shape(parameters[0])[0], height, width, 1))
        return mixing.cutmix(blank, *parameters)[1]


def _beta(uniform: Any, alpha: float) -> Any:
    """Beta(alpha, alpha) of a uniform number f32[B], by its quantiles at 4097 places and straight lines between."""
    from scipy import special

    table = special.betaincinv(alpha, alpha, np.linspace(0.0, 1.0, 4097)).astype(np.float32)
    place = uniform * 4096.0
    low = ops.floor(place)
    index = ops.cast(low, "int32")
    below, above = (ops.take(ops.convert_to_tensor(table), index + k) for k in (0, 1))
    return below + (above - below) * (place - low)
