"""Against Keras' own layer: outputs, gradients and moving statistics of a training step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from melanoma_tf.models import batch_norm

RNG = np.random.default_rng(0)


def pair(shape, dtype="float32", **options):
    """Ours and Keras' layer with the same random weights."""
    built = []
    for kind in (batch_norm.BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(dtype=dtype, momentum=0.7, **options)
        layer.build((None, *shape[1:]))
        built.append(layer)
    ours, theirs = built
    ours.set_weights([RNG.uniform(0.5, 2.0, v.shape) for v in ours.weights])
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def step(layer, images, upstream):
    """Outputs and the gradients of images, gamma and beta for a training step."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
    return outputs, *tape.gradient(outputs, [images, *layer.trainable_variables], upstream)


def differences(ours, theirs):
    """Root mean square of the difference of each pair, relative to theirs."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = (np.asarray(keras.ops.cast(x, "float32")) for x in (a, b))
        found.append(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))
    return found


# The reference in half precision rounds in other places: a few units of bfloat16's 2**-8 and float16's 2**-11.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 2e-3)])
@pytest.mark.parametrize("shape", [(8, 7, 5, 6), (16, 1, 1, 3)])
@pytest.mark.parametrize("way", ["_fused", "_in_one_pass"])
def test_a_training_step_is_that_of_keras(way, shape, dtype, tolerance, monkeypatch):
    ours, theirs = pair(shape, dtype)
    # What runs under JAX is written in Keras' operations, so it can be looked at here.
    monkeypatch.setattr(ours, "_fused", getattr(ours, way))
    images, upstream = (tf.constant(RNG.normal(1.0, 2.0, shape), ours.compute_dtype) for _ in range(2))
    found, expected = step(ours, images, upstream), step(theirs, images, upstream)
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert max(differences(found, expected)) < tolerance
    assert max(differences(ours.weights, theirs.weights)) < tolerance
    assert ours.moving_variance.dtype == "float32"


def test_the_fused_kernel_is_used_where_it_fits_and_only_there(monkeypatch):
    calls = []
    kernel = tf.compat.v1.nn.fused_batch_norm

    def counted(*args, **kwargs):
        calls.append(args)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", counted)
    images = tf.constant(RNG.normal(size=(4, 6, 6, 3)), "float32")
    for options, training, expected in (
        ({}, True, 1),
        ({}, False, 0),
        ({"trainable": False}, True, 0),
        ({"scale": False}, True, 0),
        ({"axis": 1}, True, 0),
    ):
        calls.clear()
        ours, theirs = pair(images.shape, **options)
        np.testing.assert_allclose(ours(images, training=training), theirs(images, training=training), atol=2e-6)
        assert max(differences(ours.weights, theirs.weights)) < 1e-5
        assert len(calls) == expected


def test_one_pass_keeps_the_digits_of_a_small_variance_around_a_large_mean():
    layer, _ = pair((64, 8, 8, 3), center=True)
    images = RNG.normal([0.0, 30.0, -500.0], [1.0, 0.1, 0.5], (64, 8, 8, 3))
    layer.moving_mean.assign([0.0, 29.8, -498.0])  # as after some steps: near, not equal
    _, mean, variance = layer._in_one_pass(tf.constant(images, "float32"))
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, images.var((0, 1, 2)), rtol=1e-3)


def test_it_compiles_under_xla():
    ours, theirs = pair((4, 6, 6, 3))
    images = tf.constant(RNG.normal(size=(4, 6, 6, 3)), "float32")
    compiled = tf.function(lambda x: ours(x, training=True), jit_compile=True)
    np.testing.assert_allclose(compiled(images), theirs(images, training=True), atol=2e-6)


@pytest.mark.integration
def test_a_model_is_the_same_with_the_layers_of_keras():
    from melanoma_tf.models import backbones

    keras.utils.set_random_seed(0)
    ours = backbones.build_classifier("efficientnet-b0", 64, dropout=0.0, drop_connect=0.0)

    def plain(layer):
        kind = keras.layers.BatchNormalization if "bn" in layer.name else layer.__class__
        return kind.from_config(layer.get_config())

    theirs = keras.models.clone_model(ours, clone_function=plain)
    theirs.set_weights(ours.get_weights())
    images = RNG.random((16, 64, 64, 3), np.float32)
    for training in (True, False):  # the second with the statistics that the first has left
        a, b = (keras.ops.convert_to_numpy(m(images, training=training)) for m in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
