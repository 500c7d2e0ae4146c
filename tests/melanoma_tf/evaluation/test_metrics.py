"""AUC against scikit-learn, ties and weights included; the patient bootstrap against what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from melanoma_tf.evaluation import metrics


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=60).filter(
        lambda rows: len({y for y, _, w in rows if w}) == 2
    )
)
def test_auc_is_that_of_scikit_learn_with_ties_and_weights(rows):
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    np.testing.assert_allclose(metrics.auc(labels, scores, weights), expected, atol=1e-12)


def test_auc_by_hand():
    # Pairs (positive, negative): 0.8 > 0.5, 0.8 > 0.2, 0.5 = 0.5, 0.5 > 0.2: 3.5 of 4.
    assert metrics.auc([1, 1, 0, 0], [0.8, 0.5, 0.5, 0.2]) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    ("labels", "scores", "error", "message"),
    [
        ([1, 1], [0.1, 0.2], metrics.UndefinedMetricError, "no negative among 2 labels"),
        ([0, 0], [0.1, 0.2], metrics.UndefinedMetricError, "no positive among 2 labels"),
        ([0, 2], [0.1, 0.2], ValueError, "labels must be 0 or 1, found .*2"),
        ([0, 1], [0.1, np.nan], ValueError, "scores must be finite, number 1 is nan"),
        ([0, 1, 1], [0.1, 0.2], ValueError, "3 labels, 2 scores"),
    ],
)
def test_bad_input_is_named(labels, scores, error, message):
    with pytest.raises(error, match=message):
        metrics.auc(labels, scores)


def example(patients=120, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(patients) < 0.3).astype(int)
    return labels, np.round(rng.normal(labels, 1.0), 1)


def test_copies_of_a_patients_image_do_not_narrow_the_interval():
    labels, scores = example()
    patients = np.arange(len(labels))
    once = metrics.clustered_auc_interval(labels, scores, patients, replicates=500)
    five = [np.repeat(column, 5) for column in (labels, scores, patients)]
    assert metrics.clustered_auc_interval(*five, replicates=500) == once


def test_interval_is_close_to_delong_for_independent_images():
    labels, scores = example(600)
    found = metrics.clustered_auc_interval(labels, scores, np.arange(600), replicates=2000)
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    # DeLong, DeLong & Clarke-Pearson 1988: variances of the placement values.
    variance = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    half = 1.96 * np.sqrt(variance)
    assert found.value == pytest.approx(wins.mean())
    assert found.low == pytest.approx(wins.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(wins.mean() + half, abs=0.1 * half)


def test_an_interval_needs_two_patients_of_each_class():
    with pytest.raises(metrics.UndefinedMetricError, match="positive images of at least two patients"):
        metrics.clustered_auc_interval([1, 1, 0, 0], [4, 3, 2, 1], ["a", "a", "b", "c"])
