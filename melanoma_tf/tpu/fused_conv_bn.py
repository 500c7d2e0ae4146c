"""The gradient of a pointwise convolution and the batch norm behind it, from the convolution's narrow inputs.

The blocks of an EfficientNet widen their tensors sixfold by a convolution of 1 x 1, E = x W, and normalise E over the
batch. Autodiff reads E and the gradient of its norm, writes the gradient of E, and reads that twice, for x and for W:
tensors of the widest kind there are. But as E is linear in x, all that the norm's gradient needs of E follows from the
covariance of x, a matrix as small as x is narrow: sums over E are sums over x times W, and W^T Cov(x) W. So E's
gradient is never made, and E is not read for it.

Under JAX only, for TPUs, where XLA fuses what is left into two convolutions; and for bfloat16, in which it is as near
to the truth as autodiff: of float32, sums that are not centred lose more digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from melanoma_tf.models import batch_norm


@keras.saving.register_keras_serializable("melanoma_tf.tpu.fused_conv_bn")
class BatchNormalization(batch_norm.BatchNormalization):
    """`batch_norm.BatchNormalization` that, behind a convolution which widens, takes that one's inputs as well.

    The name is Keras' own, since files of weights tell layers by the names of their classes.
    """

    _kernel: Callable[[], Any] | None = None

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        wide = inputs[0] if isinstance(inputs, list) else inputs  # both where Keras rebuilds a graph
        convolution = _widening(wide._keras_history.operation) if isinstance(wide, keras.KerasTensor) else None
        if convolution:
            # Within a function: as an attribute Keras would take it for a layer of this one.
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
        return normalise(wide, mean, variance, narrow, kernel, gamma, beta, self.epsilon, self.borrowed)


def _first(shapes: Any) -> Any:
    """The first of several shapes, or the one; from JSON they are lists too."""
    return shapes[0] if isinstance(shapes[0], (list, tuple)) else shapes


def _widening(layer: keras.layers.Layer) -> keras.layers.Conv2D | None:
    """The layer, if it is a pointwise convolution, and nothing else, with more outputs than inputs."""
    if not isinstance(layer, keras.layers.Conv2D) or layer.use_bias or layer.groups > 1:
        return None
    pointwise = layer.kernel_size == layer.strides == (1, 1) and layer.activation is keras.activations.linear
    return layer if pointwise and layer.filters > layer.input.shape[-1] else None


def normalise(
    wide: Any,
    mean: Any,
    variance: Any,
    narrow: Any,
    kernel: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    borrowed: tuple[int, ...] = (0, 0),
) -> Any:
    """Batch norm of `wide`, [B,H,W,C], which is `narrow`, [B,H,W,K], through the convolution `kernel`, [1,1,K,C].

    mean, variance: f32[C], of the rows of `wide` but for `borrowed` ones at the upper and lower edge. Gradients are
    those of narrow, kernel, gamma and beta, through the statistics too; wide, mean and variance are taken as given.
    What the two convolutions multiply is rounded to the dtype of `narrow`, and so is what is stored between them;
    everything else is float32.
    """
    import jax
    import jax.numpy as jnp

    product = functools.partial(jnp.matmul, precision="highest")  # of float32; a TPU would round it to bfloat16

    @jax.custom_vjp
    def normed(wide: Any, mean: Any, variance: Any, narrow: Any, kernel: Any, gamma: Any, beta: Any) -> Any:
        del narrow, kernel
        scale = jax.lax.rsqrt(variance + epsilon) * gamma
        return (wide.astype(jnp.float32) * scale + (beta - mean * scale)).astype(wide.dtype)

    def backward(saved: Any, upstream: Any) -> Any:
        variance, narrow, kernel, gamma = saved
        weights = kernel[0, 0].astype(jnp.float32)
        own, count = _counted(narrow, borrowed)
        centre = jnp.sum(own, (0, 1, 2), dtype=jnp.float32) / count
        covariance = _outer(own, own) / count - centre[:, None] * centre
        deviation = jax.lax.rsqrt(variance + epsilon)
        scale = deviation * gamma
        # Sums over all pixels of the upstream gradient, and of it times each channel of the centred inputs.
        d_beta = jnp.sum(upstream, (0, 1, 2), dtype=jnp.float32)
        products = _outer(narrow, upstream) - centre[:, None] * d_beta
        d_gamma = jnp.sum(weights * products, 0) * deviation
        d_kernel = (products - product(covariance, weights) * (deviation * d_gamma)) * scale
        # The gradient of `wide` is scale * (upstream - d_beta / count - normed * d_gamma / count), the last two in own
        # rows only, and that through the kernel is:
        direct = _pointwise(upstream, (weights * scale).T.astype(narrow.dtype))
        mixing = product(weights * (scale * deviation * d_gamma / count), weights.T).astype(narrow.dtype)
        constant = product(weights, scale * d_beta / count) - product(centre, mixing.astype(jnp.float32))
        indirect = (_pointwise(narrow, mixing) + constant).astype(narrow.dtype)  # it is stored
        d_narrow = (direct - _counted(indirect, borrowed)[0].astype(jnp.float32)).astype(narrow.dtype)
        return None, None, None, d_narrow, d_kernel[None, None].astype(kernel.dtype), d_gamma, d_beta

    normed.defvjp(lambda *given: (normed(*given), given[2:6]), backward)
    return normed(wide, mean, variance, narrow, kernel, gamma, beta)


def _counted(tensor: Any, borrowed: tuple[int, ...]) -> tuple[Any, float]:
    """(the tensor with zeros in borrowed rows, pixels in the others)."""
    import jax.numpy as jnp

    batch, rows, columns, _ = tensor.shape
    above, below = borrowed
    count = float(batch * (rows - above - below) * columns)
    if not any(borrowed):
        return tensor, count
    row = jnp.arange(rows).reshape(1, -1, 1, 1)
    return jnp.where((row >= above) & (row < rows - below), tensor, 0), count


def _pointwise(tensor: Any, weights: Any) -> Any:
    """[B,H,W,K], [K,C] -> f32[B,H,W,C]: a convolution, since XLA would lay tensors out anew for a matrix product."""
    import jax
    import jax.numpy as jnp

    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        tensor, weights[None, None], (1, 1), "VALID", dimension_numbers=layout, preferred_element_type=jnp.float32
    )


def _outer(a: Any, b: Any) -> Any:
    """f32[K,C]: the sum over all pixels of the products of [B,H,W,K] and [B,H,W,C], as the gradient of a kernel is."""
    import jax
    import jax.numpy as jnp

    found = jax.lax.conv_general_dilated(
        a, b, (1, 1), "VALID", dimension_numbers=("CHWN", "IHWO", "HWNC"), preferred_element_type=jnp.float32
    )
    return found[0, 0]
