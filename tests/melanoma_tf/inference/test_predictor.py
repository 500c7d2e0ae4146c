"""Views of images, and the mean of their logits."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from melanoma_tf.augment.policy import Augment
from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.devices import profile
from melanoma_tf.inference import predictor
from tests.support import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8)
ON_CPU = profile.DeviceProfile("tensorflow", "cpu")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return tiny.build_classifier("efficientnet-b0", 32, dropout=0.0)


def test_random_views_are_those_of_training_and_their_logits_are_averaged(classifier):
    config = tiny.config(augment="flip|affine(rotate=180)|color(0.1, 0.1)|mixup(0.4)", tta_random=5)
    model = predictor.of_config(classifier, config, ON_CPU)
    seeds = np.array([7, 2**32 - 1, 7], np.uint32)
    found = model.predict({"image": IMAGES, "seed": seeds}, verbose=0)
    augment = Augment("flip|affine(rotate=180)|color(0.1, 0.1)", "kernel")  # without the mixing
    of_views = []
    for view in range(5):
        own = seeds + np.uint32(view) * np.uint32(2654435769)
        of_views.append(np.asarray(classifier(augment(IMAGES, own, training=True), training=False)))
    np.testing.assert_allclose(found, np.mean(of_views, axis=0), rtol=1e-3, atol=1e-5)
    assert np.ptp(of_views, axis=0).min() > 0
    again = model.predict({"image": IMAGES[1:2], "seed": seeds[1:2]}, verbose=0)
    np.testing.assert_allclose(again, found[1:2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("settings", "views"), [({}, 8), ({"tta": False}, 1), ({"tta_random": 3}, 3)])
def test_views_share_the_memory_of_a_training_batch(settings, views):
    config = tiny.config(**settings)
    config.batch_size = 48
    assert predictor.batch_size(config, 1) == 48 // views
    assert predictor.batch_size(config, 7) % 7 == 0


def test_metadata_are_the_same_for_all_views_of_an_image():
    from melanoma_tf.models.heads import Head

    keras.utils.set_random_seed(0)
    both = tiny.build_classifier("efficientnet-b0", 32, dropout=0.0, head=Head(metadata=3))
    metadata = np.eye(3, dtype=np.float32)
    model = predictor.predictor(both, tta=True)
    found = model.predict({"image": IMAGES, "metadata": metadata}, verbose=0)
    views = np.asarray(predictor.Views(True)(IMAGES)).reshape(3, 8, 32, 32, 3)
    expected = [np.mean(both([views[i], np.repeat(metadata[i : i + 1], 8, axis=0)], training=False)) for i in range(3)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_outputs_are_in_the_order_of_the_metadata_with_any_batch_size(shards, classifier):
    train = open_data(str(shards)).train[:2]
    model = predictor.of_config(classifier, tiny.config(tta_random=2), ON_CPU)
    first, second = (predictor.predict_outputs(model, train, batch_size=size, image_size=32) for size in (4, 7))
    assert first.shape == (pipeline.count(train), 1)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_the_columns_of_diagnoses_are_a_softmax():
    outputs = np.zeros((2, 1 + len(predictor.targets.CLASSES)), np.float32)
    outputs[:, 0], outputs[0, 2] = 1.0, np.log(3)
    found = predictor.columns(outputs)
    assert found["logit"].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-1.0)))
    np.testing.assert_allclose(found["prediction_nevus"], [3 / 20, 1 / 18], rtol=1e-6)
