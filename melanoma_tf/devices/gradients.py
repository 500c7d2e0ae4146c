"""Gradients outside of training, on either backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def of_sum(function: Callable[[Any], Any], at: Any) -> Any:
    """Returns the gradient of the sum of what `function` returns.

    Args:
      function: of `keras.ops`, from one tensor to one tensor of any shape.
      at: the tensor at which to take the gradient.

    Returns:
      A tensor like `at`.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda tensor: keras.ops.sum(function(tensor)))(at)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(at)
        total = keras.ops.sum(function(at))
    return tape.gradient(total, at)
