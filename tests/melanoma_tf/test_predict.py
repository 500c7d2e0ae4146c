"""What predict decides and says, without a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from melanoma_tf import predict
from melanoma_tf.data import dataset, pipeline


def test_which_models_predict_a_shard():
    shard, test = pipeline.Shard("a", 1, 10, 2, 32), pipeline.Shard("b", -1, 10, -1, 32)
    assert predict.models_for(shard, [0, 1], seen=True) == [1]
    assert predict.models_for(shard, [0], seen=True) == [0]
    assert predict.models_for(shard, [0, 1], seen=False) == [0, 1]
    assert predict.models_for(test, [0, 1], seen=True) == [0, 1]


TEST = dataset.Shard("t", -1, 2, -1, 32)


@pytest.mark.parametrize(
    ("fill", "expected", "said"),
    [
        (None, {"b": 0.5, "a": 0.1}, "warning: 2 of 4 images of the test table have no prediction"),
        ("mean", {"c": 0.3, "b": 0.5, "=d": 0.3, "a": 0.1}, "They are written with --fill mean: 0.3"),
        ("0", {"c": 0.0, "b": 0.5, "=d": 0.0, "a": 0.1}, "They are written with --fill 0.0: 0"),
    ],
)
def test_predictions_have_the_order_of_the_table_and_the_missing_are_named(fill, expected, said):
    build = dataset.DataSet("DIR", 32, 5, (), (TEST,), ("c", "b", "=d", "a"))
    table = pd.DataFrame({"image_name": ["a", "b"], "target": [0.1, 0.5]})
    found, note = predict.in_order(table, build, predict.parse_fill(fill))
    assert found["image_name"].tolist() == list(expected)
    np.testing.assert_allclose(found["target"], list(expected.values()))
    assert said in note
    assert "see DIR/quarantine.csv): c, =d" in note


def test_one_missing_image_is_one():
    build = dataset.DataSet("DIR", 32, 5, (), (TEST,), ("c", "b"))
    table = pd.DataFrame({"image_name": ["b"], "target": [0.5]})
    warning, note = (predict.in_order(table, build, fill)[1] for fill in (None, "mean"))
    assert warning.startswith("warning: 1 of 2 images of the test table has no prediction (no record: ")
    assert warning.endswith("): c. Kaggle refuses a file without it: write it with --fill mean, or a number")
    assert note.endswith("): c. It is written with --fill mean: 0.5")


def test_of_earlier_builds_only_the_unusable_images_are_known():
    build = dataset.DataSet("DIR", 32, 5, (), (TEST,), ("c",))
    table = pd.DataFrame({"image_name": ["b", "a"], "target": [0.5, 0.1]})
    assert predict.in_order(table, build, "mean")[0]["image_name"].tolist() == ["b", "a", "c"]
    complete = dataclasses.replace(build, test_names=("a", "b"))
    assert predict.in_order(table, complete, None)[1] == ""
