"""One gradient for a widening pointwise convolution and the batch norm after it.

The blocks of an EfficientNet widen their tensors sixfold by a 1 x 1 convolution, E = x W, and normalize E over the
batch. Autodiff reads E and the gradient of its norm, writes the gradient of E, and reads that twice, for x and for W:
the widest tensors of the network. But E is linear in x, so all that the norm's gradient needs of E follows from the
covariance of x, a matrix as small as x is narrow: sums over E are sums over x times W, and W^T Cov(x) W. The gradient
of E is never computed, and E is not read for it.

JAX only, for TPUs, where XLA fuses the rest into two convolutions; and bfloat16 only, in which it is as accurate as
autodiff: in float32 the uncentered sums lose digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from melanoma_tf.core import keras_compat
from melanoma_tf.tpu import halo_batch_norm


@keras.saving.register_keras_serializable("melanoma_tf.tpu.fused_conv_bn")
class BatchNormalization(halo_batch_norm.BatchNormalization):
    """`halo_batch_norm.BatchNormalization` that also takes the inputs of the widening convolution before it.

    The class is named as Keras' own because weights files file layers under the names of their classes.
    """

    _kernel: Callable[[], Any] | None = None

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        wide = inputs[0] if isinstance(inputs, list) else inputs  # both where Keras rebuilds a graph
        convolution = _widening(keras_compat.producer(wide))
        if convolution:
            # In a function: Keras would track it as a sublayer if it were an attribute.
            self._kernel = lambda: convolution.kernel
            inputs = [wide, convolution.input]
        return super().__call__(inputs, *args, **kwargs)

    def build(self, input_shape: Any) -> None:
        super().build(_first(input_shape))
        if _first(input_shape) is not input_shape:
            self.input_spec = [keras.layers.InputSpec(ndim=4)] * 2

    def compute_output_shape(self, input_shape: Any) -> Any:
        return super().compute_output_shape(_first(input_shape))

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not isinstance(inputs, list):
            return super().call(inputs, training=training, mask=mask)
        wide, narrow = inputs
        mask = mask[0] if isinstance(mask, list) else mask
        if self._kernel is None or not self.trains(wide, training, mask):
            return super().call(wide, training=training, mask=mask)
        wide = ops.stop_gradient(ops.cast(wide, self.compute_dtype))
        shift, _, mean, variance = self.statistics(wide)
        mean = mean + shift
        self.keep(mean, variance)
        narrow, kernel = (ops.cast(given, self.compute_dtype) for given in (narrow, self._kernel()))
        gamma, beta = ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta)
        return normalize(wide, mean, variance, narrow, kernel, gamma, beta, self.epsilon, self.halo)


def _first(shapes: Any) -> Any:
    """The first of several shapes, or the only one; shapes from JSON are lists too."""
    return shapes[0] if isinstance(shapes[0], (list, tuple)) else shapes


def _widening(layer: keras.Operation | None) -> keras.layers.Conv2D | None:
    """The layer, if it is a bare pointwise convolution with more outputs than inputs."""
    if not isinstance(layer, keras.layers.Conv2D) or layer.use_bias or layer.groups > 1:
        return None
    pointwise = layer.kernel_size == layer.strides == (1, 1) and layer.activation is keras.activations.linear
    return layer if pointwise and layer.filters > layer.input.shape[-1] else None


def normalize(
    wide: Any,
    mean: Any,
    variance: Any,
    narrow: Any,
    kernel: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    halo: tuple[int, ...] = (0, 0),
) -> Any:
    """Batch norm of a widened tensor whose gradient does not read that tensor.

    Gradients are those of narrow, kernel, gamma and beta, also through the statistics; wide, mean and variance count as
    constants. Operands of the two convolutions, and what is stored between them, are rounded to the dtype of `narrow`;
    everything else is float32.

    Args:
      wide: [B,H,W,C], `narrow` through the convolution `kernel`.
      mean: f32[C], of the rows of `wide` outside the halo.
      variance: f32[C], of the same rows.
      narrow: [B,H,W,K].
      kernel: [1,1,K,C].
      gamma: f32[C].
      beta: f32[C].
      epsilon: added to the variance.
      halo: rows above and below that count in no mean.

    Returns:
      [B,H,W,C] in the dtype of `wide`.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def normed(wide: Any, mean: Any, variance: Any, narrow: Any, kernel: Any, gamma: Any, beta: Any) -> Any:
        del narrow, kernel
        scale = jax.lax.rsqrt(variance + epsilon) * gamma
        return (wide.astype(jnp.float32) * scale + (beta - mean * scale)).astype(wide.dtype)

    def backward(saved: Any, upstream: Any) -> Any:
        return None, None, None, *_gradients(saved, upstream, epsilon, halo)

    normed.defvjp(lambda *given: (normed(*given), given[2:6]), backward)
    return normed(wide, mean, variance, narrow, kernel, gamma, beta)


def _gradients(saved: Any, upstream: Any, epsilon: float, halo: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    """Gradients of narrow, kernel, gamma and beta; `saved` is variance, narrow, kernel and gamma of `normalize`."""
    import jax
    import jax.numpy as jnp

    product = functools.partial(jnp.matmul, precision="highest")  # a TPU would round float32 to bfloat16
    variance, narrow, kernel, gamma = saved
    weights = kernel[0, 0].astype(jnp.float32)
    own, count = _counted(narrow, halo)
    center = jnp.sum(own, (0, 1, 2), dtype=jnp.float32) / count
    covariance = _outer(own, own) / count - center[:, None] * center
    deviation = jax.lax.rsqrt(variance + epsilon)
    scale = deviation * gamma
    # Sums over all pixels of the upstream gradient, and of it times each channel of the centered inputs.
    d_beta = jnp.sum(upstream, (0, 1, 2), dtype=jnp.float32)
    products = _outer(narrow, upstream) - center[:, None] * d_beta
    d_gamma = jnp.sum(weights * products, 0) * deviation
    d_kernel = (products - product(covariance, weights) * (deviation * d_gamma)) * scale
    # The gradient of `wide` is scale * (upstream - d_beta / count - normed * d_gamma / count), the last two terms
    # outside the halo only; this is that gradient through the kernel.
    direct = _pointwise(upstream, (weights * scale).T.astype(narrow.dtype))
    mixing = product(weights * (scale * deviation * d_gamma / count), weights.T).astype(narrow.dtype)
    constant = product(weights, scale * d_beta / count) - product(center, mixing.astype(jnp.float32))
    indirect = (_pointwise(narrow, mixing) + constant).astype(narrow.dtype)  # as stored between the convolutions
    d_narrow = (direct - _counted(indirect, halo)[0].astype(jnp.float32)).astype(narrow.dtype)
    return d_narrow, d_kernel[None, None].astype(kernel.dtype), d_gamma, d_beta


def _counted(tensor: Any, halo: tuple[int, ...]) -> tuple[Any, float]:
    """The tensor with zeros in halo rows, and the number of pixels in the others."""
    import jax.numpy as jnp

    batch, rows, columns, _ = tensor.shape
    above, below = halo
    count = float(batch * (rows - above - below) * columns)
    if not any(halo):
        return tensor, count
    row = jnp.arange(rows).reshape(1, -1, 1, 1)
    return jnp.where((row >= above) & (row < rows - below), tensor, 0), count


def _pointwise(tensor: Any, weights: Any) -> Any:
    """[B,H,W,K], [K,C] -> f32[B,H,W,C] as a convolution; for a matrix product XLA would copy tensors first."""
    import jax
    import jax.numpy as jnp

    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        tensor, weights[None, None], (1, 1), "VALID", dimension_numbers=layout, preferred_element_type=jnp.float32
    )


def _outer(a: Any, b: Any) -> Any:
    """[B,H,W,K], [B,H,W,C] -> f32[K,C]: outer products summed over all pixels, as in the gradient of a kernel."""
    import jax
    import jax.numpy as jnp

    found = jax.lax.conv_general_dilated(
        a, b, (1, 1), "VALID", dimension_numbers=("CHWN", "IHWO", "HWNC"), preferred_element_type=jnp.float32
    )
    return found[0, 0]
