"""What corruptions do to scores: by hand, and against the metrics of the same images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from melanoma_tf.evaluation import calibration, operating_point, predictions, stress


def test_figures_by_hand():
    labels = [1, 1, 1, 1, 0, 0, 0, 0]
    clean = [4.0, 3.0, 2.0, 1.0, 1.5, 0.5, 0.0, -1.0]  # 15 of 16 pairs in order
    corrupted = [4.0, 0.0, 2.0, 1.0, 1.5, 3.0, 0.0, -1.0]
    flagged, after = (np.array(scores) >= 1.0 for scores in (clean, corrupted))
    found = stress.effect(labels, (clean, flagged), (corrupted, after), range(8), replicates=200)
    # Of 4 positives one is above all 4 others, one above 3, one above 2, and one above 1 and level with another.
    assert found.auc == (4 + 3 + 2 + 1.5) / 16
    assert found.difference.value == pytest.approx(10.5 / 16 - 15 / 16)
    assert found.difference.low < found.difference.value < found.difference.high
    assert (found.sensitivity.value, found.specificity.value) == (3 / 4, 2 / 4)
    assert (found.flipped_positives.value, found.flipped_negatives.value) == (1 / 4, 1 / 4)
    # Flips in both directions count: the rates stay, the images change.
    swapped = after.copy()
    swapped[[1, 2]] = True, False
    found = stress.effect(labels, (clean, after), (clean, swapped), range(8), replicates=100)
    assert (found.sensitivity.value, found.flipped_positives.value) == (3 / 4, 2 / 4)


def test_the_same_scores_change_nothing():
    rng = np.random.default_rng(0)
    labels, patients = rng.integers(0, 2, 100), np.arange(100) // 2
    scores = rng.normal(labels, 1.0)
    found = stress.effect(labels, (scores, scores > 0), (scores, scores > 0), patients, replicates=100)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores))
    assert (found.difference.value, found.difference.low, found.difference.high, found.p_value) == (0, 0, 0, 1)
    assert (found.flipped_positives.value, found.flipped_negatives.value) == (0, 0)


def table(n=200):
    rng = np.random.default_rng(1)
    target = (rng.random(n) < 0.1).astype(int)
    frame = {"image_name": [f"i{k}" for k in range(n)], "patient_id": [f"p{k // 2}" for k in range(n)]}
    fold = np.arange(n) // 2 % 4
    return predictions.check(
        pd.DataFrame({**frame, "target": target, "logit": rng.normal(2 * target + fold, 1.0), "fold": fold}), "a.csv"
    )


def test_melanomas_are_chosen_first_and_always_the_same():
    rows = table()
    positives = int(rows["target"].sum())
    chosen = stress.choose(rows, rows["image_name"], 60)
    assert (len(chosen), chosen["target"].sum()) == (60, positives)
    shuffled = rows.sample(frac=1, random_state=3)
    assert set(stress.choose(shuffled, rows["image_name"], 60)["image_name"]) == set(chosen["image_name"])
    assert stress.choose(rows, rows["image_name"], 20)["target"].sum() == 10
    assert len(stress.choose(rows, rows["image_name"], 0)) == len(stress.choose(rows, rows["image_name"], 999)) == 200
    some = stress.choose(rows, rows["image_name"][:50], 0)
    assert some["image_name"].tolist() == rows["image_name"][:50].tolist()
    few_others = rows.assign(target=1 - rows["target"])
    assert stress.choose(few_others, rows["image_name"], 190)["target"].sum() == 190 - positives
    with pytest.raises(predictions.PredictionsError, match="no melanoma among the 3 images"):
        stress.choose(rows, rows.loc[rows["target"] == 0, "image_name"][:3], 0)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_decisions_on_the_same_logits_are_those_of_the_operating_point(method):
    rows = table()
    calibrated = calibration.nested(method, rows["target"], rows["logit"], rows["fold"])
    threshold = operating_point.choose(rows["target"], calibrated, "sensitivity", 0.9)
    decider = stress.Decider.fit(rows, method, threshold)
    np.testing.assert_array_equal(decider(rows["logit"], rows["fold"]), calibrated >= threshold)
    shaken = rows["logit"] + np.random.default_rng(0).uniform(-1e-7, 1e-7, len(rows))
    np.testing.assert_array_equal(decider(shaken, rows["fold"]), calibrated >= threshold)
    some = [3, 77, 150]
    np.testing.assert_array_equal(decider(rows["logit"][some], rows["fold"][some]), calibrated[some] >= threshold)


def test_a_single_fold_is_decided_without_calibration():
    rows = table().assign(fold=2)
    found = stress.Decider.fit(rows, "platt", 1.5)(rows["logit"], rows["fold"])
    np.testing.assert_array_equal(found, rows["logit"] >= 1.5)
