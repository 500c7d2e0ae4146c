"""Augmentation policies: strings such as "flip|quarter_turn|color(0.1, 0.1, 0.1, 0.02)" to operations.

A new operation is a frozen dataclass with `draw` and `apply` under a `@register("name")` line; nothing else changes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import keras
from keras import ops

from melanoma_tf.augment import color, counter, geometry

DRAWS_PER_OP = 16  # each operation of a policy has its own range of draw numbers


class Op(Protocol):
    """One augmentation: `draw` makes the random parameters, `apply` is a pure function of images and parameters."""

    moves_pixels_only: ClassVar[bool]  # True: it works on u8 as well

    def draw(self, uniform: Callable[..., Any]) -> Any:
        """uniform(draw, low, high) -> f32[B]."""

    def apply(self, images: Any, parameters: Any) -> Any:
        """images: [B,H,W,3] -> the same shape and dtype."""


_OPS: dict[str, type[Any]] = {}


def register(name: str) -> Callable[[type[Any]], type[Any]]:
    """Makes an operation available to policies as `name`."""

    def add(op: type[Any]) -> type[Any]:
        _OPS[name] = op
        return op

    return add


@register("flip")
@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors left-right and top-bottom, each with probability one half. A lesion has no preferred side."""

    horizontal: bool = True
    vertical: bool = True
    moves_pixels_only: ClassVar[bool] = True

    def draw(self, uniform: Callable[..., Any]) -> Any:
        columns = ops.cast(uniform(0) < 0.5, "int32") * (geometry.FLIP_COLUMNS * self.horizontal)
        return columns + ops.cast(uniform(1) < 0.5, "int32") * (geometry.FLIP_ROWS * self.vertical)

    def apply(self, images: Any, parameters: Any) -> Any:
        images = geometry.flip(images, ops.bitwise_and(parameters, geometry.FLIP_ROWS) > 0, axes=1)
        return geometry.flip(images, ops.bitwise_and(parameters, geometry.FLIP_COLUMNS) > 0, axes=2)


@register("quarter_turn")
@dataclasses.dataclass(frozen=True)
class QuarterTurn:
    """Turns by 0, 90, 180 or 270 degrees counter-clockwise, each equally likely."""

    moves_pixels_only: ClassVar[bool] = True

    def draw(self, uniform: Callable[..., Any]) -> Any:
        turns = ops.cast(uniform(0, 0.0, 4.0), "int32")
        t, r, c = geometry.TRANSPOSE, geometry.FLIP_ROWS, geometry.FLIP_COLUMNS
        # Counter-clockwise: transpose and flip the rows; both flips; transpose and flip the columns.
        return ops.take(ops.convert_to_tensor([0, t | r, r | c, t | c], dtype="int32"), turns)

    def apply(self, images: Any, parameters: Any) -> Any:
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"quarter_turn needs square images, got {images.shape[1]} x {images.shape[2]}")
        return geometry.dihedral(images, parameters)


@register("color")
@dataclasses.dataclass(frozen=True)
class Color:
    """Brightness, contrast, saturation and hue, each drawn uniformly around "no change".

    brightness: largest amount added, of 1. contrast, saturation: factors in 1 +- this. hue: largest turn, 0.5 is half.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    moves_pixels_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"color: {name}={getattr(self, name)} must lie in [0, {most}]")

    def draw(self, uniform: Callable[..., Any]) -> Any:
        return color.matrix(
            uniform(0, -self.brightness, self.brightness),
            uniform(1, 1 - self.contrast, 1 + self.contrast),
            uniform(2, 1 - self.saturation, 1 + self.saturation),
            uniform(3, -self.hue, self.hue),
        )

    def apply(self, images: Any, parameters: Any) -> Any:
        return color.transform(images, parameters)


def parse(policy: str) -> tuple[Op, ...]:
    """The operations of a policy string; "" and "none" are no operations.

    Raises:
      ValueError: not the grammar `op|op(1, key=2)|...`, an unknown operation or argument; it names what there is.
    """
    if policy.strip() in ("", "none"):
        return ()
    return tuple(_parse_op(part.strip(), policy) for part in policy.split("|"))


def _parse_op(text: str, policy: str) -> Op:
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name):
            raise ValueError("no name")
        name = call.func.id
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"augmentation policy {policy!r}: {text!r} is not of the form op or op(1, key=2)") from error
    if name not in _OPS:
        raise ValueError(f"augmentation policy {policy!r}: no op {name!r}; available ops: {', '.join(sorted(_OPS))}")
    try:
        return _OPS[name](*args, **kwargs)
    except TypeError as error:
        signature = f"{name}{inspect.signature(_OPS[name])}".replace(" -> None", "")
        raise ValueError(f"augmentation policy {policy!r}: {text!r} does not fit {signature}") from error


@keras.saving.register_keras_serializable("melanoma_tf")
class Augment(keras.layers.Layer):
    """u8 images and per-example seeds to [0,1] float images, augmented when training.

    Inputs: images u8[B,H,W,3], seeds u32[B]. Output: [B,H,W,3] in [0,1] in the layer's compute dtype; the arithmetic
    is float32. In inference it only scales.
    """

    def __init__(self, policy: str = "none", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.ops = parse(policy)

    def call(self, images: Any, seeds: Any, training: bool = False) -> Any:
        is_float = False
        for index, op in enumerate(self.ops if training else ()):
            if not (is_float or op.moves_pixels_only):
                images, is_float = _to_unit(images), True
            first = index * DRAWS_PER_OP
            parameters = op.draw(lambda draw, *bounds, first=first: counter.uniform(seeds, first + draw, *bounds))
            images = op.apply(images, parameters)
        return ops.cast(images if is_float else _to_unit(images), self.compute_dtype)

    def compute_output_shape(self, images_shape: Any, seeds_shape: Any = None) -> Any:
        return images_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "policy": self.policy}


def _to_unit(images: Any) -> Any:
    return ops.cast(images, "float32") * (1.0 / 255.0)
