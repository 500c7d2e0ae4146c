"""Grad-CAM: closed forms on both backends, a lesion that it must find, and Adebayo et al.'s randomized weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy import ndimage, stats

from melanoma_tf.inference import saliency
from melanoma_tf.models import backbones
from tests.support import class_activation
from tests.support.images import textured
from tests.support.process import JAX_ON_CPU, run_command

pytestmark = pytest.mark.integration

SIDE = 48
LAYERS = ("logit", "second", "first")  # from the top


def test_it_is_the_closed_form_of_linear_and_hidden_heads_under_tensorflow():
    class_activation.check()


def test_of_an_efficientnet_the_last_feature_map_is_explained():
    model = backbones.build_classifier("efficientnet-b0", 64)  # which pools within every block too
    assert saliency.pooled_features(model) is model.get_layer("top_activation").output


def test_it_is_the_closed_form_of_linear_and_hidden_heads_under_jax():
    done = run_command("-m", "tests.support.class_activation", **JAX_ON_CPU)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["jax", "jax", "False"]


# ------------------------------------------------------------------------------------------- a lesion to be found


def spots(count, seed):
    """Textures with two discs: blue ones in every other image, else one red and one blue.

    Returns:
      Images f32[N,48,48,3] in [0,1], targets, and where the red disc is, bool[N,48,48].
    """
    rng, grid = np.random.default_rng(seed), np.mgrid[:SIDE, :SIDE]
    images = np.stack([np.asarray(textured(1000 * seed + i, SIDE), np.float32) / 255 for i in range(count)])
    target, red = np.arange(count) % 2, np.zeros((count, SIDE, SIDE), bool)
    for i in range(count):
        for number in range(2):
            center = rng.integers(7, SIDE - 7, (2, 1, 1))
            disc = ((grid - center) ** 2).sum(axis=0) < 25
            is_red = bool(target[i] and number)
            images[i][disc] = (0.8, 0.1, 0.1) if is_red else (0.1, 0.2, 0.8)
            red[i] |= disc & is_red
    return images, target, red


def build():
    image = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 5, strides=2, padding="same", activation="relu", name="first")(image)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="second")(x)
    return keras.Model(image, keras.layers.Dense(1, name="logit")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def trained():
    """A model that has learned to see red discs."""
    keras.utils.set_random_seed(0)
    images, target, _ = spots(256, seed=0)
    model = build()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(images, target, batch_size=32, epochs=15, verbose=0)
    return model


@pytest.fixture(scope="module")
def unseen():
    """Other images, all with a red disc."""
    images, target, red = spots(32, seed=1)
    return images[target == 1], red[target == 1]


@pytest.mark.parametrize("smooth", [False, True])
def test_the_map_is_where_the_lesion_is(trained, unseen, smooth):
    images, red = unseen
    maps = np.maximum(saliency.GradCam(trained, smooth=smooth)(images), 0)
    assert maps.shape == (16, 24, 24)
    inside = red[:, ::2, ::2]
    assert inside.mean() < 0.05  # by chance it is elsewhere
    assert all(each.flat[saliency_map.argmax()] for each, saliency_map in zip(inside, maps, strict=True))
    assert np.mean(np.sum(maps * inside, axis=(1, 2)) / np.sum(maps, axis=(1, 2))) > 0.5


def correlation(first, second):
    """Mean over images of Spearman's rank correlation; a constant map has no order, and counts as 0."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True)]
    return np.mean([stats.spearmanr(a, b)[0] if np.ptp(a) and np.ptp(b) else 0.0 for a, b in pairs])


def changes(explain, model, images):
    """Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292): correlations of maps before and after random weights.

    Returns:
      Without a change, and with each of four random initializations of all layers.
    """
    before, weights, found = explain(images), model.get_weights(), []
    same = correlation(before, explain(images))
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        model.set_weights(build().get_weights())
        found.append(correlation(before, explain(images)))
    model.set_weights(weights)
    return same, found


@pytest.mark.parametrize("smooth", [False, True])
def test_random_weights_change_the_map(trained, unseen, smooth):
    grad_cam = saliency.GradCam(trained, smooth=smooth)
    same, found = changes(lambda images: np.maximum(grad_cam(images), 0), trained, unseen[0])
    assert same == pytest.approx(1)
    assert np.abs(found).max() < 0.5


def test_an_edge_detector_would_not_pass(trained, unseen):
    def edges(images):
        return np.stack([ndimage.gaussian_gradient_magnitude(each.mean(axis=-1), 1) for each in images])

    assert changes(edges, trained, unseen[0])[1] == pytest.approx([1, 1, 1, 1])


def test_the_map_changes_more_from_the_top_down(trained, unseen):
    """The cascade: the head alone only weighs features that still see red discs; the features themselves decide."""
    grad_cam, weights = saliency.GradCam(trained, smooth=False), trained.get_weights()
    before, found = np.maximum(grad_cam(unseen[0]), 0), []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        random, row = build(), []
        for name in LAYERS:
            trained.get_layer(name).set_weights(random.get_layer(name).get_weights())
            row.append(np.abs(correlation(before, np.maximum(grad_cam(unseen[0]), 0))))
        found.append(row)
        trained.set_weights(weights)
    assert np.mean(found, axis=0)[-1] < np.mean(found, axis=0)[1]


# -------------------------------------------------------------------------------------------------- bad models


def test_models_that_cannot_be_explained_are_refused():
    nested = keras.Model(trained_input := keras.Input((SIDE, SIDE, 3)), build()(trained_input))
    with pytest.raises(ValueError, match=r"pools no feature map \[B,H,W,C\]; expected a functional model"):
        saliency.GradCam(nested, smooth=False)
    image = keras.Input((8, 12, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    with pytest.raises(ValueError, match=r"has outputs \(None, 2\); expected one logit"):
        saliency.GradCam(keras.Model(image, keras.layers.Dense(2)(pooled)), smooth=False)
    wide = keras.Model(image, keras.layers.Dense(1)(pooled))
    with pytest.raises(ValueError, match=r"expected squares to turn, or smooth=False"):
        saliency.GradCam(wide, smooth=True)
    assert saliency.GradCam(wide, smooth=False)(np.ones((1, 8, 12, 3), np.float32)).shape == (1, 6, 10)
