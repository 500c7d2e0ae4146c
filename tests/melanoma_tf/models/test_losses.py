"""The focal loss against its formula written out in numpy, and against Keras' own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from melanoma_tf.models import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (64, 1)).astype(np.float32)
LABELS = (RNG.random(64) < 0.3).astype(np.float32)


def numpy_focal(labels, logits, gamma, alpha, smoothing):
    y = labels.astype(np.float64) * (1 - smoothing) + smoothing / 2
    p = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    cross_entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    p_t = y * p + (1 - y) * (1 - p)
    weight = 1 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
    return weight * (1 - p_t) ** gamma * cross_entropy


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("alpha", "smoothing"), [(0.25, 0.0), (None, 0.0), (0.9, 0.1)])
def test_focal_loss_is_its_formula(gamma, alpha, smoothing):
    found = losses.SigmoidFocal(gamma, alpha, smoothing).call(LABELS, LOGITS)
    expected = numpy_focal(LABELS, LOGITS, gamma, alpha, smoothing)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_is_that_of_keras(smoothing):
    theirs = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True, label_smoothing=smoothing
    )
    ours = losses.SigmoidFocal(2.0, 0.25, smoothing)
    # Keras clips probabilities at 1e-7, so only to about that.
    np.testing.assert_allclose(ours(LABELS[:, None], LOGITS), theirs(LABELS[:, None], LOGITS), rtol=1e-4)


def test_without_gamma_and_alpha_it_is_the_binary_cross_entropy():
    bce = losses.build("bce", gamma=2.0, alpha=0.25, label_smoothing=0.05)
    focal = losses.build("focal", gamma=0.0, alpha=None, label_smoothing=0.05)
    np.testing.assert_allclose(focal(LABELS[:, None], LOGITS), bce(LABELS[:, None], LOGITS), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_loss_and_gradient_stay_finite_at_extreme_logits(gamma):
    logits = tf.constant([[-1e4], [-90.0], [0.0], [90.0], [1e4]] * 2)
    labels = tf.constant([0.0] * 5 + [1.0] * 5)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.SigmoidFocal(gamma, 0.25).call(labels, logits)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()
    # A wrong logit of -1e4 costs alpha * 1e4 however far it is off: nothing is clipped.
    np.testing.assert_allclose(loss[5], 0.25 * 1e4, rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"gamma=-1 must not be negative"):
        losses.SigmoidFocal(gamma=-1)
    with pytest.raises(ValueError, match=r"alpha=1.5 must lie in \(0, 1\)"):
        losses.SigmoidFocal(alpha=1.5)
    with pytest.raises(ValueError, match="unknown loss 'dice'; expected one of: focal, class_balanced, bce"):
        losses.build("dice", gamma=2.0, alpha=0.25, label_smoothing=0.0)


def test_pos_weight_is_that_of_tensorflow():
    found = losses.build("bce", pos_weight=7.0).call(LABELS, LOGITS)
    expected = tf.nn.weighted_cross_entropy_with_logits(LABELS, LOGITS[:, 0], 7.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # theirs rounds near 0


def test_class_balanced_weights_are_those_of_the_paper():
    beta, numbers = 0.99, (20, 500)
    weights = [(1 - beta) / (1 - beta**n) for n in numbers]
    alpha = losses.class_balanced_alpha(beta, *numbers)
    assert alpha / (1 - alpha) == pytest.approx(weights[0] / weights[1])
    assert losses.class_balanced_alpha(0.0, 20, 500) == 0.5
    nearly_inverse = losses.class_balanced_alpha(0.9999999, 20, 500)
    assert nearly_inverse / (1 - nearly_inverse) == pytest.approx(25, rel=1e-3)


def test_the_loss_of_the_diagnosis_is_added_where_it_is_known():
    shares = np.eye(4, dtype=np.float32)[RNG.integers(4, size=64)]
    shares[:10] = 0  # unknown
    logits = np.concatenate([LOGITS, RNG.normal(0, 2, (64, 4)).astype(np.float32)], axis=1)
    labels = np.concatenate([LABELS[:, None], shares], axis=1)
    target = losses.SigmoidFocal()
    classes = tf.nn.softmax_cross_entropy_with_logits(shares, logits[:, 1:]).numpy()
    np.testing.assert_array_equal(classes[:10], 0)
    found = losses.WithDiagnosis(target, 0.3).call(labels, logits)
    np.testing.assert_allclose(found, target.call(LABELS, LOGITS) + 0.3 * classes, rtol=1e-5)
    alone = losses.WithDiagnosis(None, 1.0)(labels, logits)
    np.testing.assert_allclose(alone, classes.mean(), rtol=1e-5)
    bce = losses.WithDiagnosis(losses.build("bce"), 1.0).call(labels, logits)
    np.testing.assert_allclose(bce - classes, losses.SigmoidFocal(0.0, None).call(LABELS, LOGITS), rtol=1e-3, atol=1e-5)
