"""Metrics against scikit-learn, with ties and weights, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from melanoma_tf.evaluation import metrics

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=60).filter(
    lambda rows: len({y for y, _, w in rows if w}) == 2
)


def partial_auc(labels, scores, weights):
    """ISIC 2024's metric by way of scikit-learn, which rescales it (McClish 1989)."""
    scaled = sklearn.metrics.roc_auc_score(1 - labels, -scores, max_fpr=0.2, sample_weight=weights)
    return 0.2**2 / 2 + (scaled - 0.5) / 0.5 * (0.2 - 0.2**2 / 2)


def rates(labels, scores, weights):
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    return fpr, tpr


def sensitivity_at(specificity):
    def found(*rows):
        fpr, tpr = rates(*rows)
        return tpr[fpr <= 1 - specificity + 1e-12].max()

    return found


def specificity_at(sensitivity):
    def found(*rows):
        fpr, tpr = rates(*rows)
        return 1 - fpr[tpr >= sensitivity - 1e-12].min()

    return found


EXPECTED = {
    "auc": lambda y, s, w: sklearn.metrics.roc_auc_score(y, s, sample_weight=w),
    "average_precision": lambda y, s, w: sklearn.metrics.average_precision_score(y, s, sample_weight=w),
    "partial_auc": partial_auc,
    "sensitivity_at_specificity_90": sensitivity_at(0.90),
    "sensitivity_at_specificity_95": sensitivity_at(0.95),
    "specificity_at_sensitivity_90": specificity_at(0.90),
    "specificity_at_sensitivity_95": specificity_at(0.95),
}


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_each_metric_is_that_of_scikit_learn_with_ties_and_weights(rows):
    labels, scores, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    curve = metrics.Ranking(labels, scores).curve(weights[None])
    assert metrics.RANKING.keys() == EXPECTED.keys()
    for name, metric in metrics.RANKING.items():
        np.testing.assert_allclose(metric(curve), EXPECTED[name](labels, scores, weights), atol=1e-12, err_msg=name)


def test_each_row_of_weights_is_a_data_set_of_its_own():
    rng = np.random.default_rng(0)
    labels, scores = np.arange(40) % 2, rng.normal(size=40).round(1)
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    curve = metrics.Ranking(labels, scores).curve(weights)
    expected = [EXPECTED["partial_auc"](labels, scores, row) for row in weights]
    np.testing.assert_allclose(metrics.partial_auc(curve), expected, atol=1e-12)


def test_a_resample_without_a_class_has_no_metric():
    curve = metrics.Ranking([0, 1, 1], [1.0, 2.0, 3.0]).curve(np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    for name, metric in metrics.RANKING.items():
        if name == "average_precision":  # precision is 1 where everything is positive
            assert metric(curve)[0] == 1
            assert np.isnan(metric(curve)[1])
        else:
            assert np.isnan(metric(curve)).all(), name


def test_auc_by_hand():
    # Pairs (positive, negative): 0.8 > 0.5, 0.8 > 0.2, 0.5 = 0.5, 0.5 > 0.2: 3.5 of 4.
    assert metrics.auc([1, 1, 0, 0], [0.8, 0.5, 0.5, 0.2]) == pytest.approx(3.5 / 4)


def test_the_highest_of_each_patient_are_marked_without_ties():
    scores = [5, 4, 3, 3, 1, 9, 9]
    patients = ["a", "a", "a", "a", "a", "b", "b"]
    assert metrics.in_top(scores, patients, 3).tolist() == [True, True, False, False, False, True, True]
    assert metrics.in_top(scores, patients, 1).tolist() == [True] + [False] * 6
    assert metrics.in_top(scores, patients).all()


@pytest.mark.parametrize(
    ("labels", "scores", "error", "message"),
    [
        ([1, 1], [0.1, 0.2], metrics.UndefinedMetricError, "no negative among 2 labels"),
        ([0, 0], [0.1, 0.2], metrics.UndefinedMetricError, "no positive among 2 labels"),
        ([0, 2], [0.1, 0.2], ValueError, "labels must be 0 or 1, got .*2"),
        ([0, 1], [0.1, np.nan], ValueError, "scores must be finite, got nan at index 1"),
        ([0, 1, 1], [0.1, 0.2], ValueError, "got 3 labels and 2 scores"),
    ],
)
def test_bad_input_is_reported(labels, scores, error, message):
    with pytest.raises(error, match=message):
        metrics.auc(labels, scores)


def test_a_class_without_weight_has_no_auc():
    with pytest.raises(metrics.UndefinedMetricError, match="one has no weight"):
        metrics.auc([0, 1], [0.1, 0.2], [0.0, 1.0])
