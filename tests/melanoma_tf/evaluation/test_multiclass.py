"""Several classes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from melanoma_tf.evaluation import metrics, multiclass
from melanoma_tf.evaluation.predictions import PredictionsError

NAMES = ["MEL", "NV", "BCC", "UNK"]


@pytest.fixture
def table():
    """Predictions of 300 images of 80 patients in three classes; none is UNK."""
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 300, p=[0.2, 0.6, 0.2])
    scores = np.round(rng.random((300, 4)) + 0.6 * np.eye(4)[truth], 2)  # with ties
    frame = pd.DataFrame(scores, columns=[f"prediction_{name}" for name in NAMES])
    names = [f"i{k}" for k in range(300)]
    return frame.assign(image_name=names, patient_id=rng.integers(0, 80, 300), diagnosis=np.array(NAMES)[truth])


def read(table, folder, metadata=None):
    table.to_csv(folder / "p.csv", index=False)
    if metadata is not None:
        metadata.to_csv(folder / "m.csv", index=False)
    return multiclass.read(folder / "p.csv", None if metadata is None else folder / "m.csv")


def test_figures_are_those_of_scikit_learn(table, tmp_path):
    found = multiclass.analyze(read(table, tmp_path), replicates=200)
    scores = table[[f"prediction_{name}" for name in NAMES]].to_numpy()
    guess = np.array(NAMES)[scores.argmax(axis=1)]
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(table["diagnosis"], guess), abs=1e-12
    )
    for k, name in enumerate(NAMES[:3]):
        own = table["diagnosis"] == name
        each = found["classes"][name]
        assert each["auc"]["value"] == pytest.approx(sklearn.metrics.roc_auc_score(own, scores[:, k]), abs=1e-12)
        recall = sklearn.metrics.recall_score(table["diagnosis"], guess, labels=[name], average="macro")
        assert each["recall"]["value"] == pytest.approx(recall, abs=1e-12)
        assert each["auc"]["low"] < each["auc"]["value"] < each["auc"]["high"]
    expected = sklearn.metrics.confusion_matrix(table["diagnosis"], guess, labels=NAMES)
    assert list(found["confusion"].values()) == expected.tolist()
    assert found["warnings"] == ["no image is of UNK: balanced accuracy is of the other classes"]
    assert found["balanced_accuracy"]["low"] < found["balanced_accuracy"]["value"] < found["balanced_accuracy"]["high"]


def test_a_class_that_is_always_found_is_not_certain_to_be(table, tmp_path):
    right = np.eye(4)[[NAMES.index(name) for name in table["diagnosis"]]]
    table[[f"prediction_{name}" for name in NAMES]] = right
    recall = multiclass.analyze(read(table, tmp_path), 100)["classes"]["BCC"]["recall"]
    assert recall["value"] == 1
    assert recall["low"] < 0.95  # Wilson (1927) of about 40 patients: 0.91


def test_intervals_resample_patients(table, tmp_path):
    """Every image five times, as images of one patient, are no more than one each."""
    once = multiclass.analyze(read(table.drop(columns="patient_id"), tmp_path), 500)["balanced_accuracy"]
    many = pd.concat([table.assign(patient_id=table["image_name"])] * 5, ignore_index=True)
    many["image_name"] += "_" + many.index.astype(str)
    often = multiclass.analyze(read(many, tmp_path), 500)["balanced_accuracy"]
    assert often["high"] - often["low"] == pytest.approx(once["high"] - once["low"], rel=0.2)


def test_metadata_may_hold_the_diagnosis(table, tmp_path):
    plain = table.drop(columns=["diagnosis", "patient_id"])
    truth = table[["image_name", "diagnosis", "patient_id"]].sample(frac=1, random_state=0)
    joined, own = read(plain, tmp_path, truth), read(table, tmp_path)
    assert joined.diagnosis.tolist() == own.diagnosis.tolist()
    assert joined.patients.tolist() == own.patients.tolist()
    with pytest.raises(PredictionsError, match=r"^\S+p\.csv has no column image_name; got "):
        read(plain.rename(columns={"image_name": "name"}), tmp_path, truth)
    with pytest.raises(PredictionsError, match="two rows for 'i5'"):
        read(plain, tmp_path, pd.concat([truth, truth[truth["image_name"] == "i5"]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="diagnosis"), "has no column diagnosis; expected image_name, patient_id, diagnosis"),
        (lambda t: t.assign(diagnosis="SCC"), "diagnosis 'SCC' of 'i0' and of 299 more images; expected one of: MEL, "),
        (lambda t: t.assign(prediction_NV=np.nan), "prediction_NV: no finite logit for 'i0'"),
        (lambda t: pd.concat([t, t.iloc[[7]]]), "more than one prediction for 'i7'"),
    ],
)
def test_nothing_is_left_out_silently(table, tmp_path, change, message):
    with pytest.raises(PredictionsError, match=message):
        read(change(table), tmp_path)


def test_one_class_has_no_balanced_accuracy(table, tmp_path):
    with pytest.raises(metrics.UndefinedMetricError, match="images of two classes; got one"):
        multiclass.analyze(read(table[table["diagnosis"] == "NV"], tmp_path))


def test_binary_predictions_are_not_taken_for_several_classes(table, tmp_path):
    table.to_csv(tmp_path / "p.csv")
    assert multiclass.has_classes(tmp_path / "p.csv")
    table.assign(prediction=0.5).to_csv(tmp_path / "p.csv")
    assert not multiclass.has_classes(tmp_path / "p.csv")
    table[["image_name", "prediction_MEL"]].rename(columns={"prediction_MEL": "prediction"}).to_csv(tmp_path / "p.csv")
    assert not multiclass.has_classes(tmp_path / "p.csv")


def test_a_run_that_predicts_diagnoses_is_judged_on_those_that_are_known_and_occur(table, tmp_path):
    rare = table.assign(prediction_VASC=0.99, logit=0.0, target=(table["diagnosis"] == "MEL").astype(int))
    rare.loc[:9, "diagnosis"] = ""
    rare.to_csv(tmp_path / "oof.csv", index=False)
    found = multiclass.of_run(tmp_path / "oof.csv")
    assert found is not None
    assert "VASC" not in found.names
    assert len(found.images) == len(table) - 10
    same = multiclass.analyze(read(table[10:].drop(columns="prediction_UNK"), tmp_path), 100)["balanced_accuracy"][
        "value"
    ]
    assert multiclass.analyze(found, 100)["balanced_accuracy"]["value"] == same
    rare[["image_name", "target", "logit"]].to_csv(tmp_path / "oof.csv", index=False)
    assert multiclass.of_run(tmp_path / "oof.csv") is None
