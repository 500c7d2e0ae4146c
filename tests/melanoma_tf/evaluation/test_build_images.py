"""What is read of a build for the evaluation of its predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma_tf.evaluation import build_images
from melanoma_tf.evaluation.predictions import PredictionsError, check
from tests.support.builds import records_of
from tests.support.images import jpeg
from tfrecord_tools import schema


def test_images_are_read_by_name(finished):
    records = records_of(finished)
    names = sorted(records)[:3]
    found = build_images.read(str(finished), [*names, "<script>", "../x"])
    assert found == {name: records[name].image for name in names}


def test_metadata_is_in_words_and_missing_values_are_missing(finished):
    records, table = records_of(finished), build_images.metadata(str(finished)).set_index("image_name")
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
        build_images.metadata(str(tmp_path))


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

    class Stored:
        def __init__(self, name):
            self.image_name, self.image = name, images[name]

    monkeypatch.setattr(build_images, "records", lambda folder: map(Stored, images))
    found = build_images.pixel_floor("DIR", table)
    assert list(found) == ["thumbnail of 16 x 16 pixels", "its border, one pixel wide"]
    assert all(low <= auc <= high for auc in found.values()), found
    assert build_images.pixel_floor("DIR", table.assign(fold=0)) == {}
    del images["i7"], images["i3"]
    with pytest.raises(PredictionsError, match="--data DIR: no image of i3 and 1 others"):
        build_images.pixel_floor("DIR", table)
