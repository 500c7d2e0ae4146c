"""What is read of a build for the evaluation of its predictions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import sklearn.metrics
from PIL import Image

from melanoma_tf.evaluation import build_images
from melanoma_tf.evaluation.predictions import PredictionsError, check
from tests.support.builds import records_of
from tests.support.images import jpeg
from tfrecord_tools import schema


@pytest.fixture
def without_boosting(monkeypatch):
    """In its place the red of the first cell, which takes no time."""
    monkeypatch.setattr(build_images.floor, "out_of_fold", lambda columns, labels, folds: columns[:, 0])


def table_of(folder):
    """Checked predictions of the labelled records of a build, and the records."""
    records = {name: record for name, record in records_of(folder).items() if record.target >= 0}
    rng = np.random.default_rng(0)
    rows = [(name, r.target, r.fold, rng.random()) for name, r in records.items()]
    frame = pd.DataFrame(rows, columns=["image_name", "target", "fold", "prediction"])
    return check(frame, "p.csv"), records


def test_metadata_of_what_is_predicted(finished_test, shards, tmp_path):
    records = records_of(finished_test)
    found = build_images.predicted(str(finished_test)).set_index("image_name")
    assert set(found.index) == set(records)
    assert {name: records[name].patient for name in records} == found["patient_id"].to_dict()
    assert found["sex"].isin(["male", "female"]).all()
    assert not {"fold", "target"} & set(found)
    # A build without a test set is predicted itself.
    assert set(build_images.predicted(str(shards))["image_name"]) == set(records_of(shards))
    with pytest.raises(PredictionsError, match=f"--data {tmp_path}: "):
        build_images.predicted(str(tmp_path))


@pytest.mark.usefixtures("without_boosting")
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


@pytest.mark.usefixtures("without_boosting")
def test_a_subset_has_the_floor_of_its_own_images(finished):
    table, _ = table_of(finished)
    kept = table[table["fold"] != 0].reset_index(drop=True)
    alone = build_images.Build(str(finished), kept).pixel_floor(kept)
    assert build_images.Build(str(finished), table).pixel_floor(kept) == alone


@pytest.mark.usefixtures("without_boosting")
def test_images_that_the_build_lacks_are_left_out(finished):
    table, _ = table_of(finished)
    more = pd.concat([table, table.iloc[:1].assign(image_name="absent")], ignore_index=True)
    build = build_images.Build(str(finished), more)
    assert build.has(more).tolist() == [True] * len(table) + [False]
    assert build.pixel_floor(more) == build.pixel_floor(table)


def test_a_damaged_image_is_named(finished, monkeypatch):
    table, _ = table_of(finished)
    monkeypatch.setattr(build_images, "thumbnail", lambda jpeg: simplejpeg.decode_jpeg(b"no JPEG"))
    with pytest.raises(PredictionsError, match=r"^image 'ISIC_.*': .*; the build is damaged, see python -m tfrecord_"):
        build_images.Build(str(finished), table)


def test_images_are_read_by_name(finished):
    records = records_of(finished)
    names = sorted(records)[:3]
    found = build_images.read(str(finished), [*names, "<script>", "../x"])
    assert found == {name: records[name].image for name in names}


def test_metadata_is_in_words_and_missing_values_are_missing(finished):
    table, records = table_of(finished)
    table = build_images.Build(str(finished), table).metadata.set_index("image_name")
    assert set(table.index) == set(records)
    for name, record in records.items():
        row = table.loc[name]
        assert (row["target"], row["fold"], row["width"]) == (record.target, record.fold, record.width)
        sex = schema.word(schema.SEX, record.sex)
        assert pd.isna(row["sex"]) if sex is None else row["sex"] == sex
        age = row["age_approx"]
        assert (age == record.age_approx) if record.age_approx != schema.MISSING else pd.isna(age)


def test_a_folder_without_a_build_is_named(tmp_path):
    with pytest.raises(PredictionsError, match=r"^--data .*manifest.json"):
        build_images.read(str(tmp_path), ["a"])


@pytest.mark.parametrize("size", [16, 100, 384])
def test_a_thumbnail_is_the_mean_color_of_each_cell(size):
    rng = np.random.default_rng(0)
    cells = rng.integers(40, 216, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((size, size), Image.Resampling.NEAREST)
    found = build_images.thumbnail(jpeg(image, quality=100, subsampling=0))
    assert found.shape == (16, 16, 3)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)
    assert np.abs(found - expected).mean() < 4  # edges of cells that are not whole pixels
    np.testing.assert_allclose(found[1::4, 1::4][1:3, 1:3], cells[1:3, 1:3], atol=3)


def colored(pixel_target):
    """Records whose color is their target, except in noise; two folds."""
    rng, rows, images = np.random.default_rng(0), [], {}
    for i in range(80):
        target = i % 2
        value = 90 + 60 * target * pixel_target + rng.integers(-15, 15)
        shown = Image.new("RGB", (32, 32), (int(value), 100, 100))
        images[f"i{i}"] = jpeg(shown)
        rows.append({"image_name": f"i{i}", "patient_id": f"p{i}", "target": target, "fold": i // 40, "logit": 0.1 * i})
    return check(pd.DataFrame(rows), "a.csv"), images


@pytest.mark.parametrize(("in_pixels", "low", "high"), [(1, 0.99, 1.0), (0, 0.2, 0.8)])
def test_the_floor_of_pixels_is_what_a_thumbnail_gives_away(monkeypatch, in_pixels, low, high):
    table, images = colored(in_pixels)

    class Stored(schema.Record):
        def __init__(self, name):
            codes = {field.name: -1 for field in dataclasses.fields(schema.Record)}
            texts = {"image_name": name, "image": images[name], "patient": "", "source": ""}
            vars(self).update(codes | texts)

    monkeypatch.setattr(build_images, "records", lambda folder: map(Stored, images))
    build = build_images.Build("DIR", table)
    found = build.pixel_floor(table)
    assert list(found) == ["thumbnail of 16 x 16 pixels", "its border, one pixel wide"]
    assert all(low <= auc <= high for auc in found.values()), found
    assert build.pixel_floor(table.assign(fold=0)) == {}
    del images["i7"], images["i3"]
    left = table[~table["image_name"].isin(["i3", "i7"])]
    assert build_images.Build("DIR", table).pixel_floor(table) == build_images.Build("DIR", left).pixel_floor(left)
