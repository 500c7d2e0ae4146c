"""Logits of a build's images under corruptions, by a tiny model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import open_data
from melanoma_tf.inference import predictor, stress
from melanoma_tf.inference.corruption import Corruption

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model():
    """Two means of the image: it sees changes of color and of structure."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 5, strides=3, activation="relu")(image)
    return predictor.predictor(
        keras.Model(image, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(x))), tta=True
    )


def test_images_as_they_are_have_the_scores_of_predict_and_corruptions_other_ones(shards, model, monkeypatch):
    held_out = open_data(str(shards)).train[:2]
    names = pipeline.read_metadata(held_out)["image_name"]
    chosen = set(names) - {names[0], names[5]}
    corruptions = {
        "none": Corruption("blur", 0.0),
        "dark": Corruption("brightness", -0.2),
        "hair": Corruption("hair", 9),
    }
    sizes: dict[str, Any] = {"batch_size": 8, "image_size": 32}
    monkeypatch.setattr(stress, "_HELD", 16)  # twice
    done: list[int] = []
    found = stress.logits(model, held_out, chosen, corruptions, **sizes, progress=done.append)
    assert found["image_name"].tolist() == [name for name in names if name in chosen]
    assert sum(done) == 4 * len(chosen)
    expected = predictor.predict_outputs(model, held_out, **sizes)[names.isin(chosen), 0]
    np.testing.assert_array_equal(found["clean"].astype(np.float32), expected)
    np.testing.assert_array_equal(found["none"], found["clean"])
    assert (found["dark"] != found["clean"]).all()
    assert (found["hair"] != found["clean"]).mean() > 0.9
    # Hairs are those of the name, whatever else is scored.
    alone = stress.logits(model, held_out[1:], chosen, {"hair": corruptions["hair"]}, **sizes)
    again = found.set_index("image_name").loc[alone["image_name"], "hair"]
    np.testing.assert_allclose(alone["hair"], again, rtol=1e-5)


def test_no_chosen_image_gives_an_empty_table(shards, model):
    held_out = open_data(str(shards)).train[:1]
    found = stress.logits(model, held_out, [], {"x": Corruption("zoom", 1.5)}, batch_size=4, image_size=32)
    assert list(found) == ["image_name", "clean", "x"]
    assert not len(found)
