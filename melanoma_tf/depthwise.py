"""Depthwise convolutions on the matrix units of a TPU, where channels are few.

A depthwise convolution mixes no channels, so a TPU computes it element by element, on units far slower than those of
its matrices. Written as a full convolution, whose kernel is zero wherever it would mix, it is as many times the work as
there are channels, on the fast units: with 32 channels in a third of the time, as the compiler expects. The numbers are
the same, but for the order of sums.

Under JAX only. The gradient of the kernel stays depthwise, which is least work.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

# Channels up to which a full convolution takes fewer cycles, as libtpu expects on v4 to v6e. Where a kernel of 5
# strides only the inputs' gradient does: there three of four of what is multiplied are zeros of the stride.
FEW, FEW_STRIDED = 64, 256


@keras.saving.register_keras_serializable("melanoma_tf.depthwise")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer, on matrix units where that takes less time. With one output a channel, no bias and no activation.

    The name is Keras' own, since files of weights tell layers by the names of their classes.
    """

    def __init__(self, on_matrix_units: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_matrix_units = on_matrix_units

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "on_matrix_units": True} if self.on_matrix_units else config

    def call(self, inputs: Any) -> Any:
        channels, strided = inputs.shape[-1], min(self.strides) > 1 and min(self.kernel_size) > 3
        if not self.on_matrix_units or channels > (FEW_STRIDED if strided else FEW):
            return super().call(inputs)
        inputs, kernel = (ops.cast(given, self.compute_dtype) for given in (inputs, self.kernel))
        return convolve(inputs, kernel, self.strides, self.padding, both_ways=channels <= FEW)


def convolve(inputs: Any, kernel: Any, strides: tuple[int, int], padding: str, both_ways: bool) -> Any:
    """The depthwise convolution of [B,H,W,C] by [K,K,C,1], with padding "same" or "valid".

    The gradient of the inputs is a full convolution, and with `both_ways` so is this one.
    """
    import jax
    import jax.numpy as jnp

    channels = inputs.shape[-1]

    def convolution(inputs: Any, kernel: Any, groups: int = 1) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            inputs, kernel, strides, padding.upper(), dimension_numbers=layout, feature_group_count=groups
        )

    def depthwise(inputs: Any, kernel: Any) -> Any:
        return convolution(inputs, jnp.swapaxes(kernel, 2, 3), channels)

    def full(inputs: Any, kernel: Any) -> Any:
        return convolution(inputs, kernel * jnp.eye(channels, dtype=kernel.dtype))

    def backward(given: Any, upstream: Any) -> Any:
        inputs, kernel = given
        (of_inputs,) = jax.linear_transpose(lambda inputs: full(inputs, kernel), inputs)(upstream)
        (of_kernel,) = jax.linear_transpose(lambda kernel: depthwise(inputs, kernel), kernel)(upstream)
        return of_inputs, of_kernel

    convolved = jax.custom_vjp(full if both_ways else depthwise)
    convolved.defvjp(lambda *given: (convolved(*given), given), backward)
    return convolved(inputs, kernel)
