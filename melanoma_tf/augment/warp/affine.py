"""Affine warps of image batches by the method that suits the device."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from melanoma_tf.augment.warp import gather, scanline, shears
from melanoma_tf.augment.warp.coordinates import FILLS, Fill

Method = Literal["gather", "kernel", "matmul", "shears"]
METHODS: tuple[Method, ...] = ("gather", "kernel", "matmul", "shears")
# Whether a model that contains the warp should be compiled by XLA. TensorFlow's kernel has an XLA form only from 2.21
# on, and is for CPUs, where XLA's convolutions are ten times slower than TensorFlow's.
COMPILES: dict[Method, bool] = {"gather": True, "kernel": False, "matmul": True, "shears": True}


def check_method(method: str) -> None:
    """Raises ValueError unless the method is one of METHODS."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of: {', '.join(METHODS)}")


def affine(
    images: Any,
    matrices: Any,
    *,
    fill: Fill = "reflect",
    value: float = 0.0,
    method: Method = "gather",
    reach: float | None = None,
    antialias: bool = False,
    dtype: str = "float32",
) -> Any:
    """Warps each image by its own affine map, with one resampling.

    Methods:
      "gather": bilinear, from four pixels; for devices with fast random access to memory (GPU, CPU).
      "kernel": the same by TensorFlow's kernel, faster on a CPU; TensorFlow only.
      "matmul": cubic (R. Keys 1981) in two passes of matrix products over columns half a pixel apart; for TPUs.
      "shears": Lanczos4 in a Pallas kernel for TPUs, JAX only; moves the least memory.

    Args:
      images: [B,H,W,C], any dtype; H = W for "matmul" and "shears".
      matrices: f32[B,3,3] from output to input positions, see `geometry`.
      fill: beyond the edges: the mirrored image, its edge pixels, or `value`.
      value: fill value of "constant", in the scale of `images`.
      method: one of METHODS.
      reach: "matmul" only: pixels from the center up to which the input is extended by `fill`; up to one and a half
        sides. Farther out it is mirrored or repeated once more. None suffices for any rotation.
      antialias: filter against aliasing when zooming out, by up to 2: with wider kernels in "matmul" and "shears", with
        a blur before "gather" and "kernel".
      dtype: of the products of "matmul" and of the result of "shears"; bfloat16 halves the memory moved and keeps at
        least 40 dB of "matmul".

    Returns:
      f32[B,H,W,C] in the scale of `images`; "matmul" and "shears" overshoot by a few percent at sharp edges.

    Raises:
      ValueError: unknown fill or method, or a method that does not fit the images or the backend.
    """
    if fill not in FILLS:
        raise ValueError(f"unknown fill {fill!r}; expected one of: {', '.join(FILLS)}")
    check_method(method)
    if method in ("gather", "kernel"):
        if antialias:
            images = gather.prefilter(images, matrices)
        return (gather.by_gather if method == "gather" else gather.by_kernel)(images, matrices, fill, value)
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"method {method!r} needs square images, got {images.shape[1]} x {images.shape[2]}")
    if method == "shears":
        if keras.backend.backend() != "jax":
            raise ValueError(
                f"method 'shears' needs the JAX backend, got {keras.backend.backend()}; use method 'matmul'"
            )
        warped = shears.by_shears(images, matrices, fill=fill, value=value, antialias=antialias, dtype=dtype)
        return ops.cast(warped, "float32")
    return scanline.by_matmul(images, matrices, fill, value, reach, antialias, dtype)
