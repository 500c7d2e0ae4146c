"""The arithmetic of the learning benchmark, and that each of its ablations changes ours."""

from __future__ import annotations

import json
import runpy

import pandas as pd
import pytest

from benchmarks import learning
from melanoma_tf.core import config

KNOWN = learning.recipes(128, 6)
PIPELINE = [name for name, recipe in KNOWN.items() if recipe.kind in ("pipeline", "one_view")]


def effective(name: str) -> dict[str, object]:
    settings = runpy.run_path(str(learning.CONFIG))["get_config"]()
    settings.update(KNOWN[name].settings)
    config.check(settings)
    return settings.to_dict()


@pytest.mark.parametrize("name", PIPELINE)
def test_recipes_are_valid_and_differ_from_ours(name: str):
    assert (effective(name) == effective("ours")) is (name == "ours")


@pytest.mark.parametrize("epochs", [2, 6, 12])
def test_keras_io_has_as_many_epochs_as_ours_and_both_phases(epochs: int):
    for name, recipe in learning.recipes(128, epochs).items():
        assert recipe.kind == "floor" or recipe.settings["epochs"] == epochs, name
        assert recipe.kind != "keras_io" or 0 < recipe.settings["head_epochs"] < epochs, name


def test_groups_stand_for_their_recipes():
    assert learning.expand(["ours", "ablations", "ours"], KNOWN) == ["ours", *learning.ABLATIONS]
    with pytest.raises(ValueError, match="unknown recipe 'our'; expected one of: floor, ablations"):
        learning.expand(["our"], KNOWN)


def table(logits: list[float], fold: int) -> pd.DataFrame:
    names = [f"{fold}{i}" for i in range(len(logits))]
    return pd.DataFrame({"image_name": names, "cluster": names, "target": [0, 0, 1, 1], "fold": fold, "logit": logits})


def test_summary_pools_folds_and_pairs_common_images():
    ours = pd.concat([table([0, 1, 2, 3], 0), table([10, 11, 12, 13], 1)])
    tables = {"ours": ours, "keras_io": table([0, 2, 1, 3], 1)}
    row = learning.summary("ours", tables)
    assert row["auc_of_folds"] == {0: 1.0, 1: 1.0}
    assert row["mean_auc_of_folds"] == 1.0
    # Of the 16 pairs, both melanomas of fold 0 are below both others of fold 1.
    assert row["auc"]["value"] == 12 / 16
    assert row["minus keras_io"]["value"] == 1 - 3 / 4
    assert row["minus keras_io"]["images"] == 4
    assert "minus ours" not in row


def test_speed_is_that_of_the_median_epoch_for_a_run_that_was_resumed(tmp_path):
    run = tmp_path / "fold0"
    run.mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"config": {"batch_size": 4}}))
    pd.DataFrame({"step": [10, 20, 30], "images_per_s": [8.0, 10.0, 0.5]}).to_csv(run / "history.csv", index=False)
    timing = learning.measured(tmp_path, 0)
    assert timing == {"images": 120, "seconds": 120 / 8}
    pd.DataFrame({"images": [60, 60], "images_per_s": [20.0, 5.0]}).to_csv(run / "history.csv", index=False)
    assert learning.measured(tmp_path, 0) == {"images": 120, "seconds": 60 / 20 + 60 / 5}  # phases of keras.io's recipe
    for fold, seconds in ((0, 10.0), (1, 30.0)):
        (tmp_path / f"fold{fold}.json").write_text(json.dumps({"images": 80, "seconds": seconds}))
    assert learning.speed(tmp_path) == {"images": 160, "seconds_per_fold": 20.0, "images_per_s": 4.0}
