"""The floor: its features by hand, no leak between folds, and its figures on ISIC 2020's real table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma_tf.evaluation import floor, metrics


def table():
    return pd.DataFrame(
        {
            "image_name": list("abcdef"),
            "patient_id": ["p", "p", "p", "q", None, None],
            "sex": ["male", "male", "male", "female", None, "female"],
            "age_approx": [40, 40, 45, None, 50, 50],
            "anatom_site_general_challenge": ["torso"] * 6,
            "width": [640, 640, 1024, 640, 640, 640],
            "height": [480, 480, 768, 480, 480, 480],
        }
    )


def test_features_by_hand():
    found = floor.features(table())
    assert list(found) == [
        "age",
        "sex",
        "images_of_patient",
        "width",
        "height",
        "share_of_size",
    ]  # one site says nothing
    assert found["images_of_patient"].tolist() == [3, 3, 3, 1, 1, 1]
    np.testing.assert_allclose(found["share_of_size"], [2 / 3, 2 / 3, 1 / 3, 1, 1, 1])
    assert found["sex"].isna().tolist() == [False, False, False, False, True, False]


def test_without_sizes_there_are_fewer():
    assert list(floor.features(table()[["image_name", "patient_id", "sex"]])) == ["sex", "images_of_patient"]


def test_labels_of_a_fold_do_not_reach_its_own_scores():
    rng = np.random.default_rng(0)
    x, labels, folds = rng.normal(size=(300, 2)), rng.integers(0, 2, 300), np.arange(300) % 3
    logits = rng.normal(labels, 1.0)
    changed = np.where(folds == 1, 1 - labels, labels)
    for predict in (
        lambda y: floor.out_of_fold(x, y, folds),
        lambda y: floor.stacked(logits, x, y, folds),
    ):
        np.testing.assert_array_equal(predict(labels)[folds == 1], predict(changed)[folds == 1])
        assert (predict(labels)[folds != 1] != predict(changed)[folds != 1]).any()


def test_one_fold_or_one_class_has_no_floor():
    with pytest.raises(metrics.UndefinedMetricError, match="two folds; got one"):
        floor.out_of_fold([[0.0], [1.0]], [0, 1], [0, 0])
    with pytest.raises(metrics.UndefinedMetricError, match="folds beside 0 have only one class"):
        floor.out_of_fold([[0.0], [1.0], [2.0], [3.0]], [0, 1, 1, 1], [0, 0, 1, 1])


# Measured independently with another implementation of gradient boosting, on the same split.
REAL = dict(zip(floor.SETS, (0.671, 0.724, 0.788, 0.842, 0.856), strict=True))


@pytest.mark.slow
@pytest.mark.skipif("MELANOMA_DATA" not in os.environ, reason="MELANOMA_DATA is not set")
def test_the_floor_of_isic_2020():
    real = pd.read_csv(Path(os.environ["MELANOMA_DATA"]) / "isic2020_csv/train_cdeotte.csv").query("tfrecord >= 0")
    found = floor.features(real)
    for name, columns in floor.SETS.items():
        scores = floor.out_of_fold(found[list(columns)], real["target"], real["tfrecord"] % 5)
        assert metrics.auc(real["target"], scores) == pytest.approx(REAL[name], abs=0.01), name
