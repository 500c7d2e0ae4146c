"""Metadata as numbers, by hand and of real shards."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from melanoma_tf.data import metadata, pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.data.metadata import Metadata

TABLE = pd.DataFrame(
    {
        "patient_id": ["p", "p", None],
        "sex": ["male", None, "female"],
        "age_approx": pd.array([50, None, 0], "Int64"),
        "anatom_site_general_challenge": ["torso", None, "head/neck"],
        "width": [1000, -1, 100],
        "height": [1000, 1000, 100],
    }
)


def test_every_value_has_its_place_and_so_has_a_missing_one():
    encoded = Metadata(("sex", "age", "site"))
    assert encoded.width == 3 + 2 + 7
    expected = np.array(
        [
            [1, 0, 0, 0.5, 0, 0, 0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1],
            [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        ]
    )
    np.testing.assert_allclose(encoded.of_table(TABLE), expected, rtol=1e-6)


def test_shortcuts_are_logarithms():
    encoded = Metadata(("image_size", "images_per_patient"), metadata.count_images([TABLE]))
    expected = [[1, 0, math.log(2) / 4, 0], [0, 1, math.log(2) / 4, 0], [math.log(1e4) / math.log(1e6), 0, 0, 1]]
    np.testing.assert_allclose(encoded.of_table(TABLE), np.array(expected), rtol=1e-6)


def test_tables_and_batches_have_the_same_numbers(shards):
    train = open_data(str(shards)).train
    fields = "sex, age, site, image_size, images_per_patient"
    encoded = pipeline.metadata_of(fields, train)
    batches = pipeline.eval_batches(train, batch_size=8, image_size=32, metadata=encoded)
    found = np.concatenate([batch["metadata"] for batch in batches])[: pipeline.count(train)]
    table = pipeline.read_metadata(train)
    np.testing.assert_array_equal(found, encoded.of_table(table))
    assert table["sex"].isna().sum() == found[:, 2].sum()
    assert np.unique(found, axis=0).shape[0] > 10


@pytest.mark.parametrize("text", ["", "  "])
def test_there_may_be_none(text):
    assert metadata.parse(text) == ()
    assert Metadata().width == 0


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="unknown 'weight'; expected some of: sex, age, site"):
        metadata.parse("sex, weight")
    with pytest.raises(ValueError, match="twice"):
        metadata.parse("sex,sex")
