"""Base classes and the registry of the operations."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from melanoma_tf.augment import random

DRAWS_PER_OP = 256  # each operation of a policy has its own range of draw indices


class Op(abc.ABC):
    """An augmentation: `draw` makes the random parameters, the other methods are pure functions of them."""

    @abc.abstractmethod
    def draw(self, rng: random.Stream) -> Any:
        """Draws the parameters, a structure of [B,...]."""


class PixelOp(Op):
    """An operation on the pixels that is not composed with others."""

    @abc.abstractmethod
    def apply(self, images: Any, params: Any) -> Any:
        """Applies drawn parameters to images float32[B,H,W,3], in [0,1] or slightly beyond; returns the same."""


OPS: dict[str, type[Any]] = {}


def register(name: str) -> Callable[[type[Any]], type[Any]]:
    """Class decorator that makes an operation available to policies as `name`."""

    def add(op: type[Any]) -> type[Any]:
        OPS[name] = op
        return op

    return add


def check_ranges(op: Op, **maxima: float) -> None:
    """Checks fields of an operation against [0, maximum]; an int as maximum asks for an integer.

    Raises:
      ValueError: a field is out of range or of another type.
    """
    name = next(name for name, kind in OPS.items() if kind is type(op))
    for field, maximum in maxima.items():
        value = getattr(op, field)
        integer = isinstance(maximum, int)
        kind = int if integer else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= maximum:
            expected = "an integer" if integer else "a number"
            raise ValueError(f"{name}: {field}={value!r}; expected {expected} in [0, {maximum}]")


def check_bool(name: str, field: str, value: Any) -> None:
    """Raises ValueError unless a field of the operation `name` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {field}={value!r}; expected True or False")
