"""Heads against closed forms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy import special

from melanoma_tf.core.config import WORDS
from melanoma_tf.models import backbones, heads

RNG = np.random.default_rng(0)
FEATURES = RNG.random((3, 5, 4, 6)).astype(np.float32) + 0.1


def build(features=FEATURES, *, dropout=0.0, prior=None, **options):
    image = keras.Input(features.shape[1:], name="image")
    return heads.classifier(image, image, dropout=dropout, prior=prior, head=heads.Head(**options), name="head")


def test_generalized_mean_pooling_lies_between_mean_and_maximum():
    layer = heads.GeneralizedMeanPooling()
    layer(FEATURES)
    for p, expected in ((1.0, FEATURES.mean(axis=(1, 2))), (3.0, np.cbrt((FEATURES**3).mean(axis=(1, 2))))):
        layer.p.assign([p])
        np.testing.assert_allclose(layer(FEATURES), expected, rtol=1e-5)
    layer.p.assign([60.0])
    np.testing.assert_allclose(layer(FEATURES), FEATURES.max(axis=(1, 2)), rtol=0.06)
    assert np.isfinite(layer(np.zeros((1, 2, 2, 1), np.float32))).all()


@pytest.mark.parametrize(("pooling", "pooled"), [("avg", np.mean), ("max", np.max)])
def test_the_logit_is_linear_in_the_pooled_features(pooling, pooled):
    model = build(pooling=pooling)
    kernel, bias = model.get_layer(heads.HEAD).get_weights()
    np.testing.assert_allclose(model(FEATURES), pooled(FEATURES, axis=(1, 2)) @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_several_masks_of_dropout_vary_less_than_one():
    keras.utils.set_random_seed(0)
    spread = []
    for samples in (1, 16):
        model = build(dropout=0.5, dropout_samples=samples)
        model.get_layer(heads.HEAD).set_weights([np.ones((6, 1)), np.zeros(1)])
        one = np.repeat(FEATURES[:1], 500, axis=0)
        logits = np.asarray(model(one, training=True))
        np.testing.assert_allclose(logits.mean(), model(FEATURES[:1])[0, 0], rtol=0.1)
        spread.append(logits.std())
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.15)  # of 16 independent masks


def test_the_logit_of_diagnoses_is_the_log_odds_of_their_softmax():
    positive = (True, False, False, True)
    logits = RNG.normal(size=(5, 4)).astype(np.float32) * 10
    chance = special.softmax(logits.astype(np.float64), axis=1)
    expected = np.log(chance[:, [0, 3]].sum(axis=1) / chance[:, [1, 2]].sum(axis=1))
    np.testing.assert_allclose(heads.LogOdds(list(positive))(logits)[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", WORDS["head"])
def test_the_first_guess_is_the_prior(outputs):
    model = build(outputs=outputs, positive=(False, True, False, True, False), prior=0.02)
    logits = np.asarray(model(np.zeros_like(FEATURES)))
    assert logits.shape == (3, 1 if outputs == "target" else 6)
    np.testing.assert_allclose(special.expit(logits[:, 0]), 0.02, rtol=1e-4)
    if outputs != "target":
        alone = heads.logit_only(model)(FEATURES)
        np.testing.assert_array_equal(alone[:, 0], model(FEATURES)[:, 0])
        assert alone.shape == (3, 1)


def test_metadata_reach_the_logit_and_belong_to_the_head():
    model = backbones.build_classifier("efficientnet-lite0", 32, head=heads.Head("gem", metadata=3))
    images, metadata = RNG.random((2, 32, 32, 3), np.float32), np.eye(3, dtype=np.float32)[:2]
    assert model([images, metadata]).shape == (2, 1)
    same = np.repeat(images[:1], 2, axis=0)
    first, second = np.asarray(model([same, metadata], training=False))[:, 0]
    assert first != second
    names = [layer.name for layer in heads.layers(model)]
    assert sorted(names) == ["logit", "metadata_1", "metadata_2", "pool"]
    assert not set(names) & {layer.name for layer in backbones.backbone_layers(model)}
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again([images, metadata], training=False), model([images, metadata], training=False))
