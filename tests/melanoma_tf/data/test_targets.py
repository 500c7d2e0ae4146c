"""What is learned of a record, in a table and in a TensorFlow graph."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from melanoma_tf.data import targets
from melanoma_tf.data.dataset import DataError
from melanoma_tf.data.targets import Targets
from tfrecord_tools import schema

# target and diagnosis of a record; a melanoma whose diagnosis is not stated, and one without any label.
ROWS = [(1, "melanoma"), (0, "nevus"), (0, "basal cell carcinoma"), (1, None), (0, None), (-1, None), (0, "unknown")]
TABLE = pd.DataFrame(ROWS, columns=["target", "diagnosis"])
RECORD = {
    "target": tf.constant([target for target, _ in ROWS], tf.int64),
    "diagnosis": tf.constant([schema.DIAGNOSIS.index(word) if word else -1 for _, word in ROWS], tf.int64),
    "image_name": tf.constant([f"image_{i}" for i in range(len(ROWS))]),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("melanoma", [1, 0, 0, 1, 0, -1, 0]),
        ("malignant", [1, 0, 1, 1, 0, -1, 0]),
        ("nevus, basal cell carcinoma", [0, 1, 1, 0, 0, -1, 0]),
    ],
)
def test_a_rule_finds_its_positives_in_tables_and_records(rule, expected):
    found = Targets(targets.parse(rule))
    assert found.of_table(TABLE).tolist() == expected
    labelled = np.array(expected) >= 0
    np.testing.assert_array_equal(found.graph(RECORD).numpy()[labelled], np.array(expected)[labelled])


def test_the_diagnosis_is_one_of_the_vocabulary_and_nothing_where_it_is_missing():
    found = Targets(diagnosis=True).graph(RECORD).numpy()
    assert found.shape == (7, 1 + len(schema.DIAGNOSIS))
    words = [schema.DIAGNOSIS[row[1:].argmax()] if row[1:].any() else None for row in found]
    assert words == ["melanoma", "nevus", "basal cell carcinoma", "melanoma", None, None, "unknown"]
    assert set(found[:, 1:].sum(axis=1)) == {0.0, 1.0}
    np.testing.assert_array_equal(Targets(diagnosis=True).labels(TABLE), found)


def test_soft_labels_replace_those_of_their_images():
    soft = Targets(soft={"image_1": 0.25, "image_5": 0.75})
    np.testing.assert_allclose(soft.graph(RECORD), [1, 0.25, 0, 1, 0, 0.75, 0])
    assert "image_name" in soft.keys


def test_an_unknown_rule_lists_the_diagnoses():
    with pytest.raises(ValueError, match="unknown diagnosis 'mole'; expected malignant, or diagnoses .* nevus"):
        targets.parse("melanoma, mole")
    with pytest.raises(ValueError, match="every diagnosis is positive"):
        targets.parse(",".join(schema.DIAGNOSIS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_name,score\na,1\n", "has no column target; got image_name, score"),
        ("image_name,target\na,0.5\na,0.6\n", "has a twice"),
        ("image_name,target\na,1.5\n", "target of a: got 1.5, expected a probability"),
        ("image_name,target\na,\n", "target of a: got nan"),
    ],
)
def test_soft_labels_that_cannot_be_used_are_refused(tmp_path, text, message):
    (tmp_path / "soft.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        targets.read_soft(tmp_path / "soft.csv")


def test_soft_labels_are_read_from_predictions_and_out_of_fold_tables(tmp_path):
    (tmp_path / "a.csv").write_text("image_name,target\n007,0.5\nNA,0.25\n")
    assert targets.read_soft(tmp_path / "a.csv") == {"007": 0.5, "NA": 0.25}
    (tmp_path / "b.csv").write_text("image_name,target,logit,probability\nx,1,0,0.5\n")
    assert targets.read_soft(tmp_path / "b.csv") == {"x": 0.5}
