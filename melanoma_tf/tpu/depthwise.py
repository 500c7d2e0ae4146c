"""Depthwise convolutions of few channels on the matrix units of a TPU.

A depthwise convolution mixes no channels, so a TPU computes it element by element, on units far slower than its matrix
units. As a full convolution, with zeros in the kernel wherever channels would mix, it is as many times the work as
there are channels, but on the fast units: with 32 channels a third of the time, by the compiler's estimate. Results are
the same up to the order of sums, except that NaN and infinity spread to all channels.

JAX only. The gradient of the kernel stays depthwise, which is the least work.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

Full = Literal["never", "backward", "always"]

# Channels up to which libtpu estimates fewer cycles for a full convolution on each of v4 to v6e, forward and backward;
# above, it depends on the generation. The second is for the inputs' gradient of a strided 5 x 5 kernel: depthwise, it
# multiplies three zeros in four.
_FEW, _FEW_STRIDED = 64, 192


def worthwhile(layer: keras.layers.DepthwiseConv2D) -> Full:
    """Where a layer takes less of a TPU's time as a full convolution: nowhere, in the inputs' gradient, or always.

    Holds if the batch fills the registers: on eight whole images the gradient of a strided 5 x 5 kernel takes twice the
    time.
    """
    channels, strided = layer.input.shape[-1], min(layer.strides) > 1 and min(layer.kernel_size) > 3
    if not _is_plain(layer) or channels > (_FEW_STRIDED if strided else _FEW):
        return "never"
    return "always" if channels <= _FEW else "backward"


@keras.saving.register_keras_serializable("melanoma_tf.tpu.depthwise")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer, computed as a full convolution.

    The class is named as Keras' own because weights files file layers under the names of their classes.

    Args:
      full: "never", "backward" (only the inputs' gradient) or "always" (all except the kernel's gradient).

    Raises:
      ValueError: full, but with bias, activation, dilation, several outputs a channel or channels first.
    """

    def __init__(self, *args: Any, full: Full = "never", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.full = full
        if full != "never" and not _is_plain(self):
            raise ValueError(
                f"{self.name}: full={full!r} needs depth_multiplier=1, use_bias=False, no activation, dilation_rate=1 "
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
    """A depthwise convolution whose inputs' gradient is a full convolution.

    Args:
      inputs: [B,H,W,C].
      kernel: [K,K,C,1].
      strides: rows, columns.
      padding: "same" or "valid".
      both_ways: whether the forward pass is a full convolution too.

    Returns:
      [B,H',W',C].
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
