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


def test_too_few_defined_resamples_give_no_interval():
    assert np.isnan(intervals.percentile(np.r_[0.7, np.full(89, 0.6), np.full(11, np.nan)]).low)
    assert not np.isnan(intervals.percentile(np.r_[0.7, np.full(90, 0.6), np.full(10, np.nan)]).low)


def test_the_same_seed_draws_the_same_patients():
    patients = np.arange(10) // 2
    one, two = (np.concatenate(list(intervals.resamples(patients, 100, 3))) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[:, ::2], one[:, 1::2])  # whole patients
    assert (one[:, ::2].sum(axis=1) == 5).all()


@pytest.mark.slow
def test_a_nominal_95_percent_covers_93_to_97_on_clustered_data_and_images_alone_do_not():
    """1,000 simulated data sets of 150 patients with 1 to 9 images that share most of their score."""
    rng = np.random.default_rng(0)
    truth = 0.760250  # P(N(1, 2) > N(0, 2)) of two images of different patients: Phi(1 / sqrt(2 * 1))
    covered = {"patients": 0, "images": 0}
    for _ in range(1000):
        of_patient = rng.integers(1, 10, 150)
        patients = np.repeat(np.arange(150), of_patient)
        labels = np.repeat(rng.random(150) < 0.4, of_patient).astype(int)
        scores = (
            labels + np.repeat(rng.normal(0, np.sqrt(0.7), 150), of_patient) + rng.normal(0, np.sqrt(0.3), len(labels))
        )
        for name, clusters in (("patients", patients), ("images", np.arange(len(labels)))):
            found = intervals.clustered_auc_interval(labels, scores, clusters, replicates=500)
            covered[name] += found.low <= truth <= found.high
    assert 930 <= covered["patients"] <= 970
    assert covered["images"] < 800


def test_rates_are_wilsons_where_images_are_independent():
    found, among = np.arange(400) < 100, np.ones(400, bool)
    one = intervals.rates({"a": (found, among), "all": (among, among)}, np.arange(400))
    # Wilson (1927) of 100 and of 400 among 400.
    assert (one["a"].low, one["a"].high) == (pytest.approx(0.2100, abs=2e-3), pytest.approx(0.2947, abs=2e-3))
    assert (one["all"].low, one["all"].high) == (pytest.approx(0.99049, abs=1e-5), pytest.approx(1))


def test_rates_count_patients_where_their_images_are_alike():
    """Ten patients, all found: not better known for having nine images each."""
    found = np.ones(90, bool)
    assert intervals.rates({"a": (found, found)}, np.arange(90) // 9)["a"].low == pytest.approx(0.7225, abs=1e-3)
    half = np.arange(90) // 9 < 5
    assert intervals.rates({"a": (half, found)}, np.arange(90) // 9)["a"].low == pytest.approx(0.2366, abs=0.02)
    assert np.isnan(intervals.rates({"a": (half, ~found)}, np.arange(90))["a"].low)


def test_progress_is_reported_to_the_end_and_only_in_the_block():
    seen = []
    arguments = (lambda weights: {"mean": weights.mean(axis=1)}, np.arange(5))
    with intervals.watched(lambda done, total: seen.append((done, total))):
        intervals.bootstrap(*arguments, replicates=150)
    intervals.bootstrap(*arguments, replicates=150)
    assert seen == [(64, 150), (128, 150), (150, 150)]
