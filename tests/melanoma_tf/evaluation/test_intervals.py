"""The patient-clustered bootstrap against DeLong's interval, and its invariance to copies of images."""

from __future__ import annotations

import numpy as np
import pytest

from melanoma_tf.evaluation import intervals, metrics


def example(patients=120, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(patients) < 0.3).astype(int)
    return labels, np.round(rng.normal(labels, 1.0), 1)


def test_copies_of_a_patients_image_do_not_narrow_the_interval():
    labels, scores = example()
    patients = np.arange(len(labels))
    once = intervals.clustered_auc_interval(labels, scores, patients, replicates=500)
    five = [np.repeat(column, 5) for column in (labels, scores, patients)]
    assert intervals.clustered_auc_interval(*five, replicates=500) == once


def test_interval_is_close_to_delong_for_independent_images():
    labels, scores = example(600)
    found = intervals.clustered_auc_interval(labels, scores, np.arange(600), replicates=2000)
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
        intervals.clustered_auc_interval([1, 1, 0, 0], [4, 3, 2, 1], ["a", "a", "b", "c"])
