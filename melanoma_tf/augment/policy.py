"""The operations of an augmentation policy, and the Keras layer that applies them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from melanoma_tf.augment import color, geometry, mixing, operations, policies, random
from melanoma_tf.augment.operations import AffineOp, ColorMatrixOp, DihedralOp, GreyWorld, MixOp, Op, QuarterTurn
from melanoma_tf.augment.warp import affine

_ALIASING_ZOOM = 1.4  # images zoomed out by more than this show aliasing


# ------------------------------------------------------------------------------------------------------ strings


def parse(policy: str) -> tuple[Op, ...]:
    """Makes the operations of a policy string, or of the name of one of `policies.POLICIES`.

    Raises:
      ValueError: bad syntax, or an unknown operation or argument.
    """
    return tuple(_op(call, policy) for call in policies.parse(policy))


def _op(call: policies.Call, policy: str) -> Op:
    kind = operations.OPS[call.name]
    try:
        op: Op = kind(*call.args, **call.kwargs)
    except TypeError as error:
        arguments = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(kind))
        raise ValueError(
            f"augmentation policy {policy!r}: bad arguments in {call.text!r}; expected {call.name}({arguments})"
        ) from error
    return op


# -------------------------------------------------------------------------------------------------------- layer


def _resample(run: Sequence[Op], images: Any, params: Sequence[Any], method: affine.Method, dtype: str) -> Any:
    """Applies neighboring geometric operations, at least one of them an AffineOp, in one resampling."""
    _, height, width, _ = images.shape
    maps = [
        op.matrix(drawn, height, width) if isinstance(op, AffineOp) else geometry.symmetry_matrix(drawn)
        for op, drawn in zip(run, params, strict=True)
    ]
    affines = [op for op in run if isinstance(op, AffineOp)]
    return affine.affine(
        images,
        functools.reduce(geometry.product, maps),
        fill=affines[-1].fill,
        method=method,
        # From the output back to the input.
        reach=functools.reduce(lambda inner, op: op.reach(inner), reversed(affines), math.sqrt(0.5)) * height,
        antialias=math.prod(op.max_zoom_out for op in affines) > _ALIASING_ZOOM,
        dtype=dtype,
    )


def _transform_colors(run: Sequence[ColorMatrixOp], images: Any, params: Sequence[Any]) -> Any:
    """Applies neighboring color matrices in one pass over the pixels."""
    matrices = [op.matrix(images, drawn) for op, drawn in zip(run, params, strict=True)]
    return color.transform(images, functools.reduce(color.compose, matrices))


def _composable(run: Sequence[Op], op: Op) -> bool:
    """Whether an operation can be composed with the run before it."""
    if isinstance(op, DihedralOp | AffineOp) and isinstance(run[0], DihedralOp | AffineOp):
        fills = {each.fill for each in (*run, op) if isinstance(each, AffineOp)}
        return len(fills) < 2
    # GreyWorld depends on the output of the operations before it.
    return isinstance(op, ColorMatrixOp) and isinstance(run[0], ColorMatrixOp) and not isinstance(op, GreyWorld)


@keras.saving.register_keras_serializable("melanoma_tf")
class Augment(keras.layers.Layer):
    """Layer that scales u8 images to [0,1] and, in training, augments them by per-example seeds.

    Inputs: images u8[B,H,W,3] and seeds u32[B]. Output: [B,H,W,3] in [0,1] in the layer's compute dtype. Values are
    clipped once, at the end. The arithmetic is float32, except for `resample_dtype` and for matrix products on TPUs
    (bfloat16) and GPUs (TF32).
    """

    def __init__(
        self,
        policy: str = "none",
        method: affine.Method = "gather",
        resample_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        """Creates the layer.

        Args:
          policy: see `parse`.
          method: of resampling, see `affine.affine`.
          resample_dtype: dtype of resampling, see `affine.affine`.
          **kwargs: of `keras.layers.Layer`.

        Raises:
          ValueError: unknown method, or see `parse`.
        """
        affine.check_method(method)
        super().__init__(**kwargs)
        self.policy, self.method, self.resample_dtype = policy, method, resample_dtype
        self.ops = parse(policy)
        # Keras compiles a model by XLA if every layer supports it.
        self.supports_jit = affine.COMPILES[method]

    def call(self, images: Any, seeds: Any, training: bool = False) -> Any:
        if not (training and self.ops):
            return ops.cast(_to_unit(images), self.compute_dtype)
        if any(isinstance(op, QuarterTurn) for op in self.ops) and images.shape[1] != images.shape[2]:
            raise ValueError(f"quarter_turn needs square images, got {images.shape[1]} x {images.shape[2]}")
        is_unit = False  # in 0..255, u8 or, once resampled, float, until an operation needs [0,1]
        for run, params in self._runs(seeds):
            if any(isinstance(op, AffineOp) for op in run):
                images = _resample(run, images, params, self.method, self.resample_dtype)
                continue
            if isinstance(run[0], DihedralOp):
                composed = functools.reduce(geometry.compose, params)
                images = run[0].apply(images, *params) if len(run) == 1 else geometry.dihedral(images, composed)
                continue
            if not is_unit:
                images, is_unit = _to_unit(images), True
            if isinstance(run[0], ColorMatrixOp):
                images = _transform_colors(run, images, params)
            else:
                images = run[0].apply(images, params[0])
        if not is_unit:
            images = _to_unit(images)
        return ops.cast(ops.clip(images, 0.0, 1.0), self.compute_dtype)

    def _runs(self, seeds: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """Yields groups of operations that are applied as one, with their drawn parameters."""
        runs: list[list[tuple[int, Op]]] = []
        for index, op in enumerate(self.ops):
            if runs and _composable([before for _, before in runs[-1]], op):
                runs[-1].append((index, op))
            else:
                runs.append([(index, op)])
        for indexed in runs:
            yield [op for _, op in indexed], [_draw(op, index, seeds) for index, op in indexed]

    @property
    def mixes(self) -> bool:
        """Whether the policy mixes examples, so that labels have to be mixed too."""
        return any(isinstance(op, MixOp) for op in self.ops)

    def labels(self, targets: Any, seeds: Any, height: int, width: int) -> Any:
        """Mixes targets or metadata like `call` mixes the images in training.

        Args:
          targets: f32[B,...].
          seeds: u32[B], those given to `call`.
          height: of the images, in pixels.
          width: of the images, in pixels.

        Returns:
          f32[B,...].
        """
        for index, op in enumerate(self.ops):
            if isinstance(op, MixOp):
                targets = mixing.labels(targets, op.share(_draw(op, index, seeds), height, width))
        return targets

    def compute_output_shape(self, images_shape: Any, seeds_shape: Any = None) -> Any:
        return images_shape

    def get_config(self) -> dict[str, Any]:
        own = {"policy": self.policy, "method": self.method, "resample_dtype": self.resample_dtype}
        return {**super().get_config(), **own}


def _draw(op: Op, index: int, seeds: Any) -> Any:
    """Parameters of the operation at a position of the policy."""
    return op.draw(random.Stream(seeds, index * operations.DRAWS_PER_OP))


def _to_unit(images: Any) -> Any:
    return ops.cast(images, "float32") * (1.0 / 255.0)
