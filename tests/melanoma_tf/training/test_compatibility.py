"""A stored run of an earlier version still predicts the same logits.

tests/data/run_before_rooms was trained before the modules moved into packages: `tests.support.tiny` on fold 0 of
`tfrecord_tools.synthetic --images 90 --patients 30 --prevalence 0.3`, built at 32 px. oof.csv and the shard hold the
images of that fold.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from melanoma_tf.core import files
from melanoma_tf.data import pipeline
from melanoma_tf.inference import predictor
from melanoma_tf.models import backbones
from melanoma_tf.training import build, checkpoint, run_dir
from tests.support import tiny
from tests.support.process import REPOSITORY

RUN = REPOSITORY / "tests/data/run_before_rooms"
SHA256 = {
    "fold0/model.weights.h5": "3075162bd0f23c99fe91d1018d5563d9b25cdbf8be5f311f242d0f70f9276647",
    "train00-19.tfrec": "baf25c940a28748f746782d3730bf4212afb297e9a819c5b6c719579f9dfa64f",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_stored_files_are_unchanged(name):
    assert files.sha256(RUN / name) == SHA256[name]


def test_stored_weights_give_the_stored_logits(monkeypatch):
    monkeypatch.setattr(backbones, "build_classifier", tiny.build_classifier)
    shards = [pipeline.Shard(str(RUN / "train00-19.tfrec"), 0, 19, 5, 32)]
    stored = run_dir.read_predictions(RUN / "fold0/oof.csv")
    columns = ["image_name", "patient_id", "source", "fold", "target"]
    assert pipeline.read_metadata(shards)[columns].equals(stored[columns])
    classifier = build.build_classifier(tiny.config())
    checkpoint.load_final(RUN / "fold0/model.weights.h5", classifier)  # written before there were checksums
    model = predictor.predictor(classifier, tta=True)
    logits = predictor.predict_outputs(model, shards, batch_size=8, image_size=32)[:, 0]
    np.testing.assert_allclose(logits, stored["logit"], atol=1e-5)
    np.testing.assert_allclose(predictor.sigmoid(logits), stored["probability"], atol=1e-5)


def test_the_keys_of_a_stored_run_are_read(tmp_path):
    run = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    del run["config"]["strips"]
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    opened = run_dir.open_workdir(tmp_path)
    assert opened.config.lr == 0.002
    assert opened.evaluation_data == ("2a30395dea79ca9b32db2e924673267dd1f54b5546152c0695d6a923ba795efa",)
    assert opened.training_data == ()
