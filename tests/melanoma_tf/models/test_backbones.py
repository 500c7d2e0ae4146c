"""The classifier's graph, input normalization and options. Small images; nothing is downloaded."""

import functools
import importlib
import math
import re

import keras
import numpy as np
import pytest

from melanoma_tf.models import backbones
from melanoma_tf.models.registry import BACKBONES
from tests.support.networks import agree, calibrate, features, pixels, randomize

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def b0() -> keras.Model:
    return backbones.build_classifier("efficientnet-b0", 40, prior=0.0176)


@functools.cache
def classifier(name: str) -> keras.Model:
    return backbones.build_classifier(name, 48)


def drop_rates(model: keras.Model) -> list[float]:
    return [layer.rate for layer in model.layers if layer.name.endswith(("_drop", "_identity"))]


def test_every_backbone_has_its_constructor():
    assert all(callable(getattr(importlib.import_module(b.module), b.constructor)) for b in BACKBONES.values())


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        ValueError, match=r"unknown backbone 'efficientnet-b8'; expected one of: efficientnet-b0, .*resnet50v2"
    ):
        backbones.build_classifier("efficientnet-b8", 64)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_size": 31}, "image_size is 31; expected a whole number of at least 32"),
        ({"drop_connect": 1.0}, r"drop_connect is 1.0; expected a value in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"batch_norm_momentum": 1.0}, "batch_norm_momentum is 1.0"),
        ({"prior": 0.0}, r"prior is 0.0; expected a value in \(0, 1\)"),
    ],
)
def test_values_out_of_range_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        backbones.build_classifier(**{"name": "efficientnet-b0", "image_size": 64, **option})


def test_the_output_is_one_float32_logit_per_image(b0):
    assert b0.input.name == "image"
    assert b0.input.shape == (None, 40, 40, 3)
    logit = b0(RNG.random((2, 40, 40, 3), np.float32))
    assert logit.shape == (2, 1)
    assert keras.backend.standardize_dtype(logit.dtype) == "float32"


def test_the_first_guess_is_the_prior():
    model = backbones.build_classifier("efficientnet-b0", 32, prior=0.0176, dropout=0.0)
    head = model.get_layer("logit")
    head.kernel.assign(keras.ops.zeros_like(head.kernel))
    probability = keras.ops.sigmoid(model(RNG.random((2, 32, 32, 3), np.float32)))
    np.testing.assert_allclose(probability, 0.0176, rtol=1e-5)
    assert float(head.bias[0]) == pytest.approx(math.log(0.0176 / 0.9824))


def test_imagenet_normalization_is_inside_the_model(b0):
    image = RNG.random((1, 40, 40, 3), np.float32)
    expected = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(b0.get_layer("normalize")(image), expected, atol=1e-5)
    assert b0.get_layer("stem_conv_pad").input is b0.get_layer("normalize").output


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        "efficientnetv2-b0",
        pytest.param("efficientnetv2-s", marks=pytest.mark.slow),
        "convnext-tiny",
        "mobilenetv3-small",
        "resnet50v2",
    ],
)
def test_features_are_those_of_keras_applications_with_its_own_preprocessing(name):
    def prepared(images):  # the one that has no preprocessing in its graph
        return images / 127.5 - 1 if name == "resnet50v2" else images

    ours, theirs = classifier(name), backbones.published(name, 48)
    randomize(theirs)
    calibrate(theirs, prepared(pixels(48, 8)))
    values = {named: layer.get_weights() for named, layer in backbones.named_layers(theirs)}
    for layer in backbones.backbone_layers(ours):
        layer.set_weights(values[layer.name])
    images = pixels(48)
    expected = keras.ops.convert_to_numpy(theirs(prepared(images), training=False)).mean((1, 2))
    agree(features(ours, images / 255), expected)
    assert drop_rates(ours) == [] or max(drop_rates(ours)) > 0.15


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("efficientnet-b0", [1, 2, 2, 3, 3, 4, 1]),  # Tan & Le 2019, table 1
        ("efficientnetv2-b0", [1, 2, 2, 3, 5, 8]),
        ("convnext-tiny", [3, 3, 9, 3]),  # Liu et al. 2022
        ("mobilenetv3-small", [1] * 11),  # Howard et al. 2019, table 2: each block is a stage
        ("resnet50v2", [3, 4, 6, 3]),  # He et al. 2016
    ],
)
def test_stages_have_the_blocks_that_were_published(name, blocks):
    stem, *stages, head = [[layer.name for layer in stage] for stage in backbones.stages(classifier(name))]
    one_a_block = re.compile("project_conv$|depthwise_conv$|_project$|_2_conv$")
    assert [sum(bool(one_a_block.search(layer)) for layer in stage) for stage in stages] == blocks
    assert head[-1] == "logit"
    assert not [layer for layer in (*stem, *head) if "block" in layer or "expanded" in layer]
    ordered = [*stem, *(layer for stage in stages for layer in stage), *head[:-1]]
    assert ordered == [layer.name for layer in backbones.backbone_layers(classifier(name))]


@pytest.mark.integration
def test_it_is_rebuilt_from_json(b0):
    again = keras.models.model_from_json(b0.to_json())
    again.set_weights(b0.get_weights())
    images = RNG.random((2, 40, 40, 3), np.float32)
    np.testing.assert_array_equal(again(images, training=False), b0(images, training=False))
    assert again(images, training=True).shape == (2, 1)
    assert drop_rates(again) == drop_rates(b0)


def test_drop_connect_grows_linearly_with_depth_as_keras_applications_has_it(b0):
    theirs = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))
    assert drop_rates(b0) == pytest.approx(drop_rates(theirs))  # both 0.2
    assert drop_rates(b0)[-1] == pytest.approx(0.2 * 14 / 16)  # block6d is the 15th of 16


@pytest.mark.integration
@pytest.mark.parametrize(("drop_connect", "varies"), [(0.0, False), (0.9, True)])
def test_drop_connect_takes_effect_in_training(drop_connect, varies):
    model = backbones.build_classifier(
        "efficientnet-b0", 32, dropout=0.0, drop_connect=drop_connect, freeze_batch_norm=True
    )
    images = np.repeat(RNG.random((1, 32, 32, 3), np.float32), 8, axis=0)
    logits = keras.ops.convert_to_numpy(model(images, training=True))
    assert (np.ptp(logits) > 1e-5 * np.abs(logits).max()) == varies


def test_v2_drop_connect_does_not_overshoot():
    """keras.applications divides by the block count before depth scaling: 0.2 asked for becomes 0.27 in V2-B1."""
    model = backbones.build_classifier("efficientnetv2-b1", 32, drop_connect=0.5)
    assert 0.45 < max(drop_rates(model)) < 0.5


def test_frozen_batch_norm_uses_and_keeps_its_moving_statistics():
    model = backbones.build_classifier("efficientnet-b0", 32, dropout=0.0, drop_connect=0.0, freeze_batch_norm=True)
    bn = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(bn) == 49
    assert not any(layer.trainable_weights for layer in bn)
    # The order pretrained.py relies on is that of a layer which is not frozen.
    assert [v.name for v in bn[0].weights] == ["gamma", "beta", "moving_mean", "moving_variance"]
    images = RNG.random((2, 32, 32, 3), np.float32)
    before = keras.ops.convert_to_numpy(model(images, training=False))
    np.testing.assert_allclose(model(images, training=True), before, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(bn[0].moving_mean, 0.0)


def test_batch_norm_momentum_is_set_or_the_backbones_own(b0):
    model = backbones.build_classifier("efficientnet-b0", 32, batch_norm_momentum=0.9)
    assert model.get_layer("stem_bn").momentum == 0.9
    assert b0.get_layer("stem_bn").momentum == 0.99


@pytest.mark.integration
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_the_backbone_only_in_half_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = backbones.build_classifier("efficientnet-b0", 32)
        again = keras.models.model_from_json(model.to_json())
    finally:
        keras.config.set_dtype_policy(before)
    for built in (model, again):
        assert built.get_layer("normalize").compute_dtype == "float32"
        assert built.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
        assert built.get_layer("logit").compute_dtype == "float32"
    logit = model(RNG.random((2, 32, 32, 3), np.float32), training=True)
    assert keras.backend.standardize_dtype(logit.dtype) == "float32"
    assert np.isfinite(keras.ops.convert_to_numpy(logit)).all()


def test_backbone_layers_are_those_with_pretrained_weights(b0):
    layers = backbones.backbone_layers(b0)
    assert layers[0].name == "stem_conv"
    assert layers[-1].name == "top_bn"
    held = sum(math.prod(v.shape) for layer in layers for v in layer.weights)
    assert held == b0.count_params() - (1280 + 1)  # all but the head
