"""Subgroups against the metrics of the subset, and no figure where positives are few."""

from __future__ import annotations

import numpy as np
import pandas as pd
import sklearn.metrics

from melanoma_tf.evaluation import subgroups


def test_figures_are_those_of_the_subset():
    rng = np.random.default_rng(0)
    labels, sex = rng.integers(0, 2, 200), np.where(np.arange(200) < 120, "female", "male")
    scores, patients = rng.normal(labels, 1.0), np.arange(200) // 2
    found = subgroups.within(labels, scores, scores >= 0.5, patients, {"sex": sex}, replicates=100)["sex"]
    assert list(found) == ["female", "male"]  # the larger first
    own = sex == "female"
    women = found["female"]
    assert (women.images, women.patients, women.positives) == (120, 60, labels[own].sum())
    assert women.auc is not None
    assert women.sensitivity is not None
    assert women.specificity is not None
    assert np.isclose(women.auc.value, sklearn.metrics.roc_auc_score(labels[own], scores[own]))
    assert np.isclose(women.sensitivity.value, sklearn.metrics.recall_score(labels[own], scores[own] >= 0.5))
    assert np.isclose(women.specificity.value, sklearn.metrics.recall_score(1 - labels[own], scores[own] < 0.5))
    assert women.auc.low < women.auc.value < women.auc.high


def test_few_positives_or_negatives_have_counts_only():
    labels = np.r_[np.ones(9), np.zeros(50)]
    scores, flagged, patients = np.arange(59.0), np.ones(59, bool), np.arange(59)
    found = subgroups.within(labels, scores, flagged, patients, {"site": np.full(59, None)}, replicates=10)
    assert found == {"site": {"unknown": subgroups.Subgroup(59, 59, 9)}}
    found = subgroups.within(1 - labels, scores, flagged, patients, {"site": ["a"] * 59}, replicates=10)
    assert found["site"]["a"].auc is None
    # Many images, of few patients.
    found = subgroups.within(np.arange(59) % 2, scores, flagged, patients // 8, {"site": ["a"] * 59}, replicates=10)
    assert found["site"]["a"].auc is None


def test_age_bands():
    ages = pd.Series([0, 29, 30, 69, 70, 90, None])
    assert subgroups.age_band(ages).tolist() == [
        "under 30", "under 30", "30 to 39", "60 to 69", "70 and over", "70 and over", "unknown",
    ]  # fmt: skip


def test_bands_keep_their_order():
    ages = subgroups.age_band(pd.Series([75, 20, 20, None, 45]))
    found = subgroups.within([0] * 5, range(5), [True] * 5, range(5), {"age": ages})["age"]
    assert list(found) == ["under 30", "40 to 49", "70 and over", "unknown"]


def test_groups_after_the_largest_are_named_other_and_unknown_ones_stay():
    sizes = pd.Series(["a", "b", "a", "c", None, "b", "a", "d"])
    found = subgroups.largest(sizes, 2)
    assert found.fillna("unknown").tolist() == ["a", "b", "a", "other", "unknown", "b", "a", "other"]
