"""Calibration against scikit-learn, closed forms and data whose miscalibration is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from scipy import special
from sklearn.linear_model import LogisticRegression

from melanoma_tf.evaluation import calibration, metrics


@pytest.fixture(scope="module")
def example():
    """(labels, logits): true logits are 0.5 times the logit, less 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1.0, 3.0, 4000)
    return (rng.random(4000) < special.expit(0.5 * logits - 1)).astype(int), logits


def test_scores_are_those_of_scikit_learn(example):
    labels, logits = example
    probabilities = special.expit(logits)
    found = calibration.brier(labels, probabilities)
    assert found["score"] == pytest.approx(sklearn.metrics.brier_score_loss(labels, probabilities), abs=1e-12)
    assert calibration.log_loss(labels, logits) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities), abs=1e-9
    )
    expected = sklearn.calibration.calibration_curve(labels, probabilities, n_bins=12, strategy="quantile")
    curve = calibration.reliability(labels, probabilities, bins=12)
    np.testing.assert_allclose([curve.observed, curve.predicted], expected, atol=1e-12)
    assert curve.count.sum() == len(labels)


def test_brier_by_hand():
    # Recalibrated to 0, 1/2, 1/2, 1: its score is 1/8, that of the prevalence 1/4.
    found = calibration.brier([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    assert found["score"] == pytest.approx((0.01 + 0.64 + 0.09 + 0.36) / 4)
    assert found["uncertainty"] == 0.25
    assert found["discrimination"] == pytest.approx(0.125)
    assert found["miscalibration"] == pytest.approx(0.275 - 0.125)
    assert found["skill"] == pytest.approx(1 - 0.275 / 0.25)


def test_the_error_of_the_curve_by_hand():
    curve = calibration.reliability([0, 1, 1, 1], [0.1, 0.1, 0.6, 0.6], bins=2)
    assert curve.error == pytest.approx((2 * abs(0.5 - 0.1) + 2 * abs(1 - 0.6)) / 4)


@pytest.mark.parametrize(("method", "intercept"), [("platt", True), ("temperature", False)])
def test_linear_maps_are_those_of_an_unpenalized_logistic_regression(example, method, intercept):
    labels, logits = example
    found = calibration.fit(method, labels, logits)
    model = LogisticRegression(C=np.inf, fit_intercept=intercept, tol=1e-12, max_iter=1000)
    model.fit(logits[:, None], labels)
    assert found.slope == pytest.approx(model.coef_[0, 0], abs=1e-6)
    assert found.intercept == pytest.approx(np.ravel(model.intercept_)[0] if intercept else 0.0, abs=1e-6)


def test_the_known_miscalibration_is_found(example):
    slope, _ = calibration.slope_and_intercept(*example)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert calibration.fit("platt", *example).intercept == pytest.approx(-1, abs=0.15)


def test_the_intercept_in_the_large_makes_the_mean_right(example):
    labels, logits = example
    _, intercept = calibration.slope_and_intercept(labels, logits)
    assert special.expit(logits + intercept).mean() == pytest.approx(labels.mean(), abs=1e-7)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_fold_is_calibrated_by_the_others(example, method):
    labels, logits = example
    folds = np.arange(len(labels)) % 4
    found = calibration.nested(method, labels, logits, folds)
    others = calibration.fit(method, labels[folds != 2], logits[folds != 2])
    np.testing.assert_allclose(found[folds == 2], others(logits[folds == 2]))
    changed = labels.copy()
    changed[folds == 2] = 1 - changed[folds == 2]
    again = calibration.nested(method, changed, logits, folds)
    np.testing.assert_array_equal(again[folds == 2], found[folds == 2])
    if method != "temperature":
        assert calibration.log_loss(labels, found) < calibration.log_loss(labels, logits) - 0.1
        assert calibration.reliability(labels, special.expit(found)).error < 0.03


def test_isotonic_is_monotone_and_reaches_beyond_its_knots(example):
    found = calibration.fit("isotonic", *example)(np.linspace(-30, 30, 500))
    assert (np.diff(found) >= 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("method", calibration.METHODS)
def test_calibrators_survive_json(example, method):
    made = calibration.fit(method, *example)
    assert calibration.Calibrator.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"method": "beta"},
        {"slope": float("nan")},
        {"slope": -1.0},
        {"x": [1.0]},
        {"y": "12"},
        {"slope": None},
        {"a": 1},
    ],
)
def test_strange_calibrators_are_refused(change):
    good = calibration.Calibrator("platt", 0.5, -1.0).to_json()
    with pytest.raises(ValueError, match="no calibrator"):
        calibration.Calibrator.from_json({**good, **change})


def test_a_prevalence_is_exchanged_for_another():
    """Of 1,000 positives and 1,000 negatives in cells of equal logit, 90 % of the negatives are removed."""
    positives, negatives = np.array([100.0, 300.0, 600.0]), np.array([600.0, 300.0, 100.0])
    before = special.logit(positives / (positives + negatives))
    after = special.logit(positives / (positives + negatives / 10))
    np.testing.assert_allclose(calibration.at_prevalence(before, 0.5, 1000 / 1100), after)


def test_predictive_values_are_those_of_a_table():
    # 90 of 100 positives and 80 of 900 negatives are flagged.
    found = calibration.predictive_values(0.9, 820 / 900, 0.1)
    assert found == (pytest.approx(90 / 170), pytest.approx(820 / 830))
    assert np.isnan(calibration.predictive_values(0.0, 1.0, 0.1)[0])


def test_one_fold_cannot_be_calibrated(example):
    labels, logits = example
    with pytest.raises(metrics.UndefinedMetricError, match="two folds; got one"):
        calibration.nested("platt", labels, logits, np.zeros(len(labels)))
