"""Models whose first blocks see splits of each image, against the same models on whole images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from melanoma_tf.core import config
from melanoma_tf.models import backbones
from melanoma_tf.tpu import rewrite, spatial_split
from melanoma_tf.tpu.rewrite import Rewrite
from tests.support import tiny

pytestmark = pytest.mark.integration

RNG = np.random.default_rng(0)
V1, V2 = "efficientnet-b0", "efficientnetv2-b0"


def published(name, size):
    return backbones.published(name, size)


def build_both(name, size, count, **options):
    """Models of whole images and of splits, with the same weights, all different from their initial values."""
    whole, split = (backbones.build_classifier(name, size, rewrite=r, **options) for r in (None, Rewrite(count)))
    assert [v.path for v in whole.weights] == [v.path for v in split.weights]
    values = [np.asarray(v) * RNG.uniform(0.5, 1.5, v.shape) for v in whole.weights]
    for value, variable in zip(values, whole.weights, strict=True):
        if "mean" in variable.path or "beta" in variable.path:
            value += RNG.normal(0, 0.1, value.shape)
    for built in (whole, split):
        built.set_weights(values)
    return whole, split


def step(built, images):
    """Logits, gradients and new statistics of a training step, each image's drop connect drawn from the same seed."""
    for layer in built.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([1, 2])
    with tf.GradientTape() as tape:
        logits = built(images, training=True)
        loss = tf.reduce_mean(tf.square(logits - tf.range(len(images), dtype="float32")[:, None]))
    gradients = tape.gradient(loss, built.trainable_variables)
    statistics = [v.numpy() for v in built.non_trainable_variables if "moving" in v.path]
    return logits.numpy(), np.concatenate([np.ravel(g) for g in gradients]), np.concatenate(statistics)


@pytest.mark.parametrize(
    ("name", "size", "count", "blocks"),
    [
        (V1, 384, 1, ()),
        (V1, 384, 2, ("stem", "1a", "2a", "2b", "3a", "3b")),
        (V1, 384, 8, ("stem", "1a", "2a", "2b", "3a")),  # 3b would have a halo of four rows for six of its own
        (V1, 384, 3, ("stem", "1a", "2a", "2b", "3a", "3b")),
        ("efficientnet-b3", 300, 2, ("stem", "1a", "1b")),  # then 75 rows cannot be halved
        (V1, 383, 2, ()),
        (V1, 384, 128, ()),
        (V2, 384, 4, ("stem", "1a", "2a", "2b", "3a", "3b")),
    ],
)
def test_blocks_are_split_as_far_as_their_rows_go(name, size, count, blocks):
    found = spatial_split.split_blocks(published(name, size), count)
    assert found == [block if block == "stem" else f"block{block}" for block in blocks]


@pytest.fixture(scope="module")
def halves():
    """EfficientNet-B0 at 64 px on two splits of each image."""
    return build_both(V1, 64, 2)[1]


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [pytest.param(V1, 128, 4, marks=pytest.mark.slow), ("efficientnet-b1", 96, 3), (V2, 64, 2)],
)
def test_splits_give_the_numbers_of_whole_images(name, size, count):
    """B1 has a block without expansion that is not the first, and drops whole images within the split blocks."""
    whole, split = build_both(name, size, count, drop_connect=0.5)
    images = RNG.random((6, size, size, 3), np.float32)
    found, expected = (np.asarray(built(images, training=False)) for built in (split, whole))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    for found, expected in zip(step(split, images), step(whole, images), strict=True):
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("size", "asked", "said"),
    [
        (64, 1, "plain graph"),
        (64, 2, "first blocks on 2 splits of each image"),
        (64, 128, "first blocks on 4 splits of each image"),  # of 8 rows after the stem, and a halo of 2
        (63, 8, "plain graph"),
    ],
)
def test_there_are_fewer_splits_where_rows_are_few(size, asked, said):
    assert rewrite.describe(backbones.build_classifier(V1, size, rewrite=Rewrite(asked))) == said


@pytest.mark.slow
def test_mixed_precision_stays_within_its_own_noise():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        whole, split = build_both(V1, 64, 2)
    finally:
        keras.config.set_dtype_policy(before)
    exact, _ = build_both(V1, 64, 2)
    exact.set_weights(whole.get_weights())
    images = RNG.random((16, 64, 64, 3), np.float32)
    noise, difference = (
        np.std(np.asarray(a(images, training=False)) - np.asarray(b(images, training=False)))
        for a, b in ((whole, exact), (split, whole))
    )
    assert difference < noise


def test_an_image_sees_nothing_of_its_neighbors_in_the_batch(halves):
    images = RNG.random((4, 64, 64, 3), np.float32)
    together, alone = (np.asarray(halves(x, training=False)) for x in (images, images[:1]))
    np.testing.assert_allclose(together[:1], alone, rtol=0, atol=1e-6)


def test_its_file_of_weights_is_that_of_whole_images(halves, tmp_path):
    halves.save_weights(tmp_path / "halves.weights.h5")
    whole = backbones.build_classifier(V1, 64)
    whole.load_weights(tmp_path / "halves.weights.h5")
    for found, expected in zip(whole.weights, halves.weights, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=found.path)


def test_a_model_of_splits_survives_its_own_json(halves):
    again = keras.models.model_from_json(halves.to_json())
    again.set_weights(halves.get_weights())
    images = RNG.random((2, 64, 64, 3), np.float32)
    found, expected = (np.asarray(built(images, training=False)) for built in (again, halves))
    np.testing.assert_array_equal(found, expected)


def test_fast_layers_are_refused_where_they_cannot_be_computed():
    with pytest.raises(ValueError, match="TPU layers are written in JAX; Keras runs on tensorflow"):
        backbones.build_classifier(V1, 64, rewrite=Rewrite(fast_layers=True))


@pytest.mark.parametrize("asked", [-1, 129])
def test_a_number_of_splits_out_of_range_is_refused(asked):
    settings = tiny.config()
    settings.tpu.spatial_splits = asked
    with pytest.raises(ValueError, match=f"config.tpu.spatial_splits={asked} must lie between 0 and 128"):
        config.check(settings)
