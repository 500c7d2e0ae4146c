"""One reading of a build for metadata, thumbnails and the gallery."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from melanoma_tf.evaluation import build_images, predictions
from tests.support.builds import records_of

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _without_boosting(monkeypatch):
    """In its place the red of the first cell, which takes no time."""
    monkeypatch.setattr(build_images.floor, "out_of_fold", lambda columns, labels, folds: columns[:, 0])


def table_of(folder):
    """Checked predictions of the labelled records of a build, and the records."""
    records = {name: record for name, record in records_of(folder).items() if record.target >= 0}
    rng = np.random.default_rng(0)
    rows = [(name, r.target, r.fold, rng.random()) for name, r in records.items()]
    frame = pd.DataFrame(rows, columns=["image_name", "target", "fold", "prediction"])
    return predictions.check(frame, "p.csv"), records


def test_a_build_is_read_once(finished, monkeypatch):
    table, records = table_of(finished)
    readings = []
    read = build_images.records

    def counted(folder):
        readings.append(folder)
        return read(folder)

    monkeypatch.setattr(build_images, "records", counted)
    names = list(table["image_name"])
    build = build_images.Build(str(finished), table, names[:2])
    assert build.images(names[:2]) == {name: records[name].image for name in names[:2]}
    red = [build_images.thumbnail(records[name].image)[0, 0, 0] for name in names]
    expected = sklearn.metrics.roc_auc_score(table["target"], red)
    assert build.pixel_floor(table) == {
        name: pytest.approx(expected) for name in ("thumbnail of 16 x 16 pixels", "its border, one pixel wide")
    }
    assert len(readings) == 1
    found = build.metadata.set_index("image_name")
    assert {name: row["width"] for name, row in found.iterrows()} == {name: r.width for name, r in records.items()}
    # Images that were not asked for at first are read, not left out.
    assert build.images(names[2:4])[names[3]] == records[names[3]].image


def test_a_subset_has_the_floor_of_its_own_images(finished):
    table, _ = table_of(finished)
    kept = table[table["fold"] != 0].reset_index(drop=True)
    alone = build_images.Build(str(finished), kept).pixel_floor(kept)
    assert build_images.Build(str(finished), table).pixel_floor(kept) == alone


def test_an_image_that_the_build_lacks_is_named(finished):
    table, _ = table_of(finished)
    table.loc[0, "image_name"] = "absent"
    with pytest.raises(predictions.PredictionsError, match="no image of absent and 0 others"):
        build_images.Build(str(finished), table).pixel_floor(table)
