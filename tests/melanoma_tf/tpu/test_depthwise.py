"""Depthwise convolutions written as full ones: their numbers, where they are, and what the compiler expects of them."""

from __future__ import annotations

import importlib.util
import json

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from melanoma_tf.tpu import depthwise
from tests.support.process import run_command

pytestmark = pytest.mark.integration

BOTH_WAYS = [True, False]


def given(kernel_size, channels=6):
    rng = np.random.default_rng(0)
    return rng.normal(0.5, 2, (4, 11, 10, channels)), rng.normal(size=(kernel_size, kernel_size, channels, 1))


def by_hand(inputs, kernel, stride, padding):
    """Each channel by itself, tap after tap."""
    size = kernel.shape[0]
    rows, columns = inputs.shape[1:3]
    if padding == "same":  # TensorFlow's: as many outputs as strides, the odd zero below and to the right
        zeros = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (rows, columns)]
        inputs = jnp.pad(inputs, ((0, 0), *((z // 2, z - z // 2) for z in zeros), (0, 0)))
        rows, columns = inputs.shape[1:3]
    down, right = ((n - size) // stride * stride + 1 for n in (rows, columns))
    taps = [(i, j) for i in range(size) for j in range(size)]
    return sum(inputs[:, i : i + down : stride, j : j + right : stride] * kernel[i, j, :, 0] for i, j in taps)


def outputs_and_gradients(function, inputs, kernel, dtype):
    """Of a loss that is not linear, with the upstream gradient rounded to the dtype as layers behind would."""

    def loss(inputs, kernel):
        outputs = function(inputs.astype(dtype), kernel.astype(dtype))
        return jnp.sum(jnp.sin(outputs.astype(jnp.promote_types(dtype, jnp.float32)))), outputs

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(inputs, kernel)
    return [np.asarray(found, np.float64) for found in (outputs, *gradients)]


def errors(function, kernel_size, stride, padding, dtype):
    """Root mean square, relative to what is found by hand in float64."""
    with jax.enable_x64(True):
        inputs, kernel = (jnp.asarray(value, jnp.float64) for value in given(kernel_size))
        true = outputs_and_gradients(lambda x, k: by_hand(x, k, stride, padding), inputs, kernel, jnp.float64)
    inputs, kernel = (jnp.asarray(value, jnp.float32) for value in given(kernel_size))
    found = outputs_and_gradients(function, inputs, kernel, dtype)
    return [float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))) for a, b in zip(found, true, strict=True)]


@pytest.mark.parametrize("both_ways", BOTH_WAYS)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_outputs_and_gradients_are_those_found_by_hand(kernel_size, stride, padding, both_ways):
    def convolve(inputs, kernel):
        return depthwise.convolve(inputs, kernel, (stride, stride), padding, both_ways)

    assert max(errors(convolve, kernel_size, stride, padding, jnp.float32)) < 1e-5


@pytest.mark.parametrize("both_ways", BOTH_WAYS)
def test_in_bfloat16_they_are_as_true_as_those_of_a_depthwise_convolution(both_ways):
    def ours(inputs, kernel):
        return depthwise.convolve(inputs, kernel, (2, 2), "valid", both_ways)

    def theirs(inputs, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = jnp.swapaxes(kernel, 2, 3)
        return jax.lax.conv_general_dilated(
            inputs, kernel, (2, 2), "VALID", dimension_numbers=layout, feature_group_count=kernel.shape[-1]
        )

    found, expected = (errors(function, 5, 2, "valid", jnp.bfloat16) for function in (ours, theirs))
    for mine, reference in zip(found, expected, strict=True):
        assert 0 < mine < 1.2 * reference


# Channels, kernel, stride: where a layer is a full convolution. The first two are of EfficientNet-B0.
LAYERS = {
    (32, 3, 1): "always",
    (144, 5, 2): "backward",
    (64, 3, 2): "always",
    (65, 3, 1): "never",
    (96, 3, 2): "never",
    (64, 5, 2): "always",
    (65, 5, 2): "backward",
    (144, 5, 1): "never",
    (192, 5, 2): "backward",
    (193, 5, 2): "never",
}


ON_JAX = """
import jax, json, re, sys
from melanoma_tf import preflight
preflight.prepare("mixed_bfloat16")
import keras
from melanoma_tf.tpu import depthwise, hlo_cost

def step(case, full, side):
    channels, size, stride = case
    layer = depthwise.DepthwiseConv2D(size, stride, use_bias=False, full=full)
    model = keras.Sequential([keras.Input((side, side, channels), dtype="bfloat16"), layer])
    given = [jax.ShapeDtypeStruct((128, side, side, channels), "bfloat16"), layer.kernel.value]
    loss = lambda inputs, kernel: jax.numpy.square(model.stateless_call([kernel], [], inputs)[0]).sum()
    return jax.grad(loss, (0, 1)), given

def groups(case, full):
    function, given = step(case, full, 8)
    traced = str(jax.make_jaxpr(function)(*given))
    found = re.findall(r"batch_group_count=(\\d+).*?feature_group_count=(\\d+)", traced, re.DOTALL)
    return [max(map(int, pair)) for pair in found]

def cycles(case, full):
    function, given = step(case, full, 24)
    on = jax.sharding.SingleDeviceSharding(preflight.topology_devices("v5e-1")[0])
    given = [jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=on) for each in given]
    return hlo_cost.parse(jax.jit(function, out_shardings=on).lower(*given).compile().as_text()).cycles

measure = {"groups": groups, "cycles": cycles}[sys.argv[1]]
print(json.dumps([measure(*case) for case in json.loads(sys.argv[2])]))
"""


def on_jax(measure, cases):
    done = run_command("-c", ON_JAX, measure, json.dumps(cases), KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_layer_is_a_full_convolution_where_it_is_reported_to_be():
    """By how many groups of channels there are in what JAX is given: forward, back to the inputs, to the kernel."""
    found = on_jax("groups", [((32, 3, 1), full) for full in ("never", "backward", "always")])
    assert found == [[32, 32, 32], [32, 1, 32], [1, 1, 32]]


@pytest.mark.parametrize(("case", "expected"), LAYERS.items())
def test_it_is_worthwhile_where_channels_are_few(case, expected):
    channels, size, stride = case
    layer = keras.layers.DepthwiseConv2D(size, stride, use_bias=False)
    layer(keras.Input((8, 8, channels)))
    assert depthwise.worthwhile(layer) == expected


@pytest.mark.parametrize(
    "other",
    [{"use_bias": True}, {"activation": "relu"}, {"dilation_rate": 2}, {"depth_multiplier": 2}],
)
def test_layers_that_are_not_plain_are_refused(other):
    options = {"use_bias": False, **other}
    layer = keras.layers.DepthwiseConv2D(3, **options)
    layer(keras.Input((8, 8, 4)))
    assert depthwise.worthwhile(layer) == "never"
    depthwise.DepthwiseConv2D(3, **options)  # never full
    with pytest.raises(ValueError, match=r"full='always' needs depth_multiplier=1, use_bias=False, no activation"):
        depthwise.DepthwiseConv2D(3, full="always", **options)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.slow
def test_there_the_compiler_expects_less_time():
    few, strided = (32, 3, 1), (144, 5, 2)
    found = on_jax("cycles", [(few, "never"), (few, "always"), (strided, "never"), (strided, "backward")])
    assert found[1] < 0.6 * found[0]
    assert found[3] < 0.85 * found[2]
