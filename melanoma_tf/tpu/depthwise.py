"""Depthwise convolutions on the matrix units of a TPU, where channels are few.

A depthwise convolution mixes no channels, so a TPU computes it element by element, on units far slower than those of
its matrices. Written as a full convolution, whose kernel is zero wherever it would mix, it is as many times the work as
there are channels, on the fast units: with 32 channels in a third of the time, as the compiler expects. The numbers are
the same, but for the order of sums; only what is not finite spreads to all channels.

Under JAX only. The gradient of the kernel stays depthwise, which is least work.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

Full = Literal["never", "backward", "always"]

# Channels up to which libtpu expects a full convolution to take fewer cycles on each of v4 to v6e, forward and back;
# with more it depends on the generation. Where a kernel of 5 strides that is so of the inputs' gradient up to more: to
# it the stride is three zeros of four, multiplied like the rest.
_FEW, _FEW_STRIDED = 64, 192


def worthwhile(layer: keras.layers.DepthwiseConv2D) -> Full:
    """Where a layer of a graph takes less of a TPU's time as a full convolution: back to its inputs, or always.

    If the batch fills the registers: of eight whole images the gradient of a 5 x 5 kernel that strides takes twice
    the time.
    """
    channels, strided = layer.input.shape[-1], min(layer.strides) > 1 and min(layer.kernel_size) > 3
    if not _is_plain(layer) or channels > (_FEW_STRIDED if strided else _FEW):
        return "never"
    return "always" if channels <= _FEW else "backward"


@keras.saving.register_keras_serializable("melanoma_tf.tpu.depthwise")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer, as a full convolution: never, only the gradient of its inputs, or always but for the kernel's.

    The name is Keras' own, since files of weights tell layers by the names of their classes.

    Raises:
      ValueError: full, and not one output a channel without bias, activation and dilation, channels last.
    """

    def __init__(self, *args: Any, full: Full = "never", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.full = full
        if full != "never" and not _is_plain(self):
            raise ValueError(
                f"{self.name}: full={full!r} wants depth_multiplier=1, use_bias=False, no activation, dilation_rate=1 "
                "and channels last"
            )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config if self.full == "never" else {**config, "full": self.full}

    def call(self, inputs: Any) -> Any:
        if self.full == "never":
            return super().call(inputs)
        kernel = ops.convert_to_tensor(self.kernel)
        return convolve(inputs, kernel, self.strides, self.padding, both_ways=self.full == "always")


def _is_plain(layer: keras.layers.DepthwiseConv2D) -> bool:
    return (
        layer.depth_multiplier == 1
        and not layer.use_bias
        and layer.activation is keras.activations.linear
        and max(layer.dilation_rate) == 1
        and layer.data_format == "channels_last"
    )


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
