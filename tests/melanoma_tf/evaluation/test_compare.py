"""Comparison of two models against the definitions of DeLong and Obuchowski, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from melanoma_tf.evaluation import compare, metrics


def example(n=400, seed=0, gain=0.3):
    """(labels, first, second): scores of two models that share most of their noise; the first is better."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    shared = rng.normal(labels, 1.0)
    return labels, shared + gain * labels + rng.normal(0, 0.3, n), np.round(shared + rng.normal(0, 0.3, n), 1)


def placements(labels, scores):
    """[m,n] of 0, 1/2 and 1, from the definition."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def test_delong_is_its_definition():
    labels, *scores = example()
    found = compare.delong(labels, scores)
    wins = np.stack([placements(labels, s) for s in scores])
    m, n = wins.shape[1:]
    expected = np.cov(wins.mean(2)) / m + np.cov(wins.mean(1)) / n
    np.testing.assert_allclose(found.aucs, wins.mean((1, 2)), atol=1e-12)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    interval, p = found.difference()
    variance = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    assert interval.high - interval.value == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)
    assert 0 < p < 0.05


def test_obuchowskis_variance_is_its_definition():
    labels, scores, _ = example()
    clusters = np.arange(len(labels)) // 3
    wins = placements(labels, scores)
    area, (m, n) = wins.mean(), wins.shape
    of_positive, of_negative = clusters[labels == 1], clusters[labels == 0]
    s10 = s01 = s11 = 0.0
    for cluster in np.unique(clusters):
        a = wins.mean(1)[of_positive == cluster]
        b = wins.mean(0)[of_negative == cluster]
        left, right = a.sum() - len(a) * area, b.sum() - len(b) * area
        s10, s01, s11 = s10 + left**2, s01 + right**2, s11 + left * right
    i10, i01, i = len(np.unique(of_positive)), len(np.unique(of_negative)), len(np.unique(clusters))
    expected = i10 / (i10 - 1) * s10 / m**2 + i01 / (i01 - 1) * s01 / n**2 + 2 * i / (i - 1) * s11 / (m * n)
    assert compare.delong(labels, scores, clusters).covariance[0, 0] == pytest.approx(expected, abs=1e-12)
    single = compare.delong(labels, scores, np.arange(len(labels))).covariance
    assert single[0, 0] == pytest.approx(compare.delong(labels, scores).covariance[0, 0], rel=0.01)


def test_the_bootstrap_agrees_with_delong_where_images_are_independent():
    labels, first, second = example(800)
    found = compare.paired(labels, first, second, np.arange(800))["auc"]
    expected, p = compare.delong(labels, [first, second]).difference()
    assert found.interval.value == pytest.approx(expected.value, abs=1e-12)
    width = expected.high - expected.low
    assert found.interval.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.interval.high == pytest.approx(expected.high, abs=0.05 * width)
    assert found.p_value == pytest.approx(p, abs=0.01)
    assert found.detectable == pytest.approx(2.8016 * width / (2 * 1.96), rel=0.05)


def test_a_model_does_not_differ_from_itself():
    labels, first, _ = example()
    for found in compare.paired(labels, first, first, np.arange(len(labels)), replicates=100).values():
        assert (found.interval.value, found.interval.low, found.interval.high, found.p_value) == (0, 0, 0, 1)
    assert compare.delong(labels, [first, first]).difference()[1] == 1


def test_copies_of_images_prove_nothing_new():
    columns = example(200)
    patients = np.arange(200)
    labels, first, second = columns
    once = compare.paired(labels, first, second, patients, replicates=300)["auc"]
    labels, first, second, patients = (np.repeat(column, 5) for column in (*columns, patients))
    assert compare.paired(labels, first, second, patients, replicates=300)["auc"].interval == once.interval


def test_too_few_images_are_reported():
    with pytest.raises(metrics.UndefinedMetricError, match="two images of each class; got 1 and 2"):
        compare.delong([1, 0, 0], [3.0, 2.0, 1.0])
