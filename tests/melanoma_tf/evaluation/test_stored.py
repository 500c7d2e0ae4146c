"""calibration.json: what is written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from scipy import special

from melanoma_tf.core import files
from melanoma_tf.evaluation import stored
from melanoma_tf.evaluation.calibration import Calibrator


@pytest.fixture
def folder(tmp_path):
    """A run's folder with oof.csv and calibration.json."""
    (tmp_path / "oof.csv").write_text("image_name,logit\na,1.0\n")
    made = stored.Stored(
        Calibrator("platt", 0.5, -1.0), "sensitivity", 0.9, -0.5, 0.2, 100, files.sha256(tmp_path / "oof.csv")
    )
    stored.write(tmp_path / "calibration.json", made)
    return tmp_path, made


def read(folder):
    return stored.read(folder / "calibration.json", folder / "oof.csv")


def test_what_is_written_is_read(folder):
    path, made = folder
    assert read(path) == made
    never = dataclasses.replace(made, threshold=None)
    stored.write(path / "calibration.json", never)
    assert read(path) == never
    assert not never([1e9])[1].any()
    stored.write(path / "calibration.json", None)
    assert read(path) is None


def test_probabilities_move_with_the_prevalence_and_flags_do_not(folder):
    _, made = folder
    logits = [0.0, 0.999, 1.0, 5.0]
    calibrated, flagged = made(logits)
    np.testing.assert_allclose(calibrated, [-1.0, -0.5005, -0.5, 1.5])
    assert flagged.tolist() == [False, False, True, True]
    rare, still = made(logits, 0.01)
    assert still.tolist() == flagged.tolist()
    # Bayes' theorem: the odds are multiplied by the ratio of the odds of both prevalences.
    odds = np.exp(calibrated) * (0.01 / 0.99) / (0.2 / 0.8)
    np.testing.assert_allclose(special.expit(rare), odds / (1 + odds))


def test_predictions_that_changed_since_are_noticed(folder):
    path, _ = folder
    (path / "oof.csv").write_text("image_name,logit\na,2.0\n")
    with pytest.raises(stored.StoredError, match=r"another oof.csv than the one beside it; run python -m .* again"):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"calibrator": {"method": "platt"}},
        {"prevalence": 0},
        {"threshold": "high"},
        {"value": float("nan")},
        {"rule": "accuracy"},
        {"more": 1},
    ],
)
def test_damage_is_reported(folder, change):
    path, _ = folder
    found = json.loads((path / "calibration.json").read_text())
    (path / "calibration.json").write_text(json.dumps(found | change))
    with pytest.raises(stored.StoredError, match=r"calibration.json is damaged: .*evaluate --workdir RUN again"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_other_files_are_reported(folder, text):
    path, _ = folder
    (path / "calibration.json").write_text(text)
    with pytest.raises(stored.StoredError, match="is damaged"):
        read(path)


def test_a_calibrator_that_makes_all_images_alike_is_not_stored():
    results: dict[str, Any] = {
        "calibration": {"calibrator": Calibrator("platt", 0.0, -1.0).to_json()},
        "operating_point": {"rule": "cost", "value": 20, "threshold": 0.0},
        "positives": 1,
        "images": 10,
    }
    assert stored.of_results(results, "of oof.csv") is None
    results["calibration"]["calibrator"]["slope"] = 0.1
    made = stored.of_results(results, "of oof.csv")
    assert made is not None
    assert (made.prevalence, made.oof_sha256) == (0.1, "of oof.csv")
    assert stored.of_results(results | {"calibration": {}}, "of oof.csv") is None
