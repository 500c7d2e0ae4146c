"""The joined gradient of a pointwise convolution and its batch norm against autodiff of the two."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melanoma_tf.tpu import fused_conv_bn

pytestmark = pytest.mark.integration

EPSILON = 1e-3
PLACES = ("narrow", "kernel", "gamma", "beta")


def given(mean=0.0):
    """Inputs whose channels are neither centered, even about the mean, nor of one scale, nor independent."""
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(8, 11, 6, 5)) @ rng.normal(size=(5, 5)) + rng.normal(mean, 2, 5)
    kernel, gamma, beta = rng.normal(size=(1, 1, 5, 30)), rng.uniform(0.5, 2, 30), rng.normal(size=30)
    return [jnp.asarray(value, jnp.float32) for value in (narrow, kernel, gamma, beta)]


def convolve(narrow, kernel):
    return jax.lax.conv_general_dilated(narrow, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def moments(wide, halo):
    own = wide[:, halo[0] : wide.shape[1] - halo[1]]
    own = own.astype(jnp.promote_types(own.dtype, jnp.float32))
    mean = own.mean((0, 1, 2))
    return mean, jnp.square(own - mean).mean((0, 1, 2))


def loss(outputs):
    """Its gradient differs from pixel to pixel, has a mean, and goes partly with the outputs and partly its own way."""
    weights = np.random.default_rng(1).normal(0.3, 1.0, outputs.shape)
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    return jnp.sum(jnp.tanh(outputs) * weights + 0.5 * jax.nn.silu(outputs) * outputs)


def by_autodiff(narrow, kernel, gamma, beta, halo, dtype):
    wide = convolve(narrow.astype(dtype), kernel.astype(dtype))
    mean, variance = moments(wide, halo)
    scale = jax.lax.rsqrt(variance + EPSILON) * gamma
    return loss((wide * scale + (beta - mean * scale)).astype(dtype))


def joined(narrow, kernel, gamma, beta, halo, dtype):
    narrow, kernel = narrow.astype(dtype), kernel.astype(dtype)
    wide = jax.lax.stop_gradient(convolve(narrow, kernel))
    mean, variance = moments(wide, halo)
    return loss(fused_conv_bn.normalize(wide, mean, variance, narrow, kernel, gamma, beta, EPSILON, halo))


def errors(function, halo, dtype, mean=0.0):
    """Root mean square of the error of each gradient, relative to autodiff in float64."""
    with jax.enable_x64(True):
        inputs = [jnp.asarray(value, jnp.float64) for value in given(mean)]
        true = [np.asarray(g) for g in jax.grad(by_autodiff, (0, 1, 2, 3))(*inputs, halo, jnp.float64)]
    found = jax.grad(function, (0, 1, 2, 3))(*given(mean), halo, dtype)
    return {
        place: float(np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2) / np.mean(b**2)))
        for place, a, b in zip(PLACES, found, true, strict=True)
    }


@pytest.mark.parametrize("halo", [(0, 0), (1, 2)])
def test_in_float32_gradients_are_those_of_autodiff(halo):
    assert max(errors(joined, halo, jnp.float32).values()) < 5e-5  # of sums that cancel, autodiff's too: 4e-6
    found, true = (float(function(*[*given(), halo, jnp.float32])) for function in (joined, by_autodiff))
    assert found == pytest.approx(true, 1e-5)


@pytest.mark.parametrize("halo", [(0, 0), (1, 2)])
@pytest.mark.parametrize("mean", [0.0, 10.0])  # channels deviate from it by 1 to 3
def test_in_bfloat16_they_are_as_true_as_those_of_autodiff(halo, mean):
    theirs, ours = (errors(function, halo, jnp.bfloat16, mean) for function in (by_autodiff, joined))
    for place in PLACES:
        assert ours[place] < 1.5 * theirs[place]


def test_gradients_do_not_read_the_wide_tensor():
    inputs = given()
    wide = convolve(*inputs[:2])
    mean, variance = moments(wide, (0, 0))

    def gradients(wide):
        def outputs(narrow, kernel, gamma, beta):
            return fused_conv_bn.normalize(wide, mean, variance, narrow, kernel, gamma, beta, EPSILON)

        upstream = np.random.default_rng(2).normal(size=wide.shape).astype(np.float32)
        return jax.vjp(outputs, *inputs)[1](upstream)

    for found, expected in zip(gradients(jnp.zeros_like(wide)), gradients(wide), strict=True):
        np.testing.assert_array_equal(found, expected)
