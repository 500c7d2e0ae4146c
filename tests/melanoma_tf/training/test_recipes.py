"""Training with every kind of head, sampling and stage: exact resumption, and what each of them does."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from melanoma_tf import evaluate, explain, predict, train
from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import DataError
from melanoma_tf.devices import select
from melanoma_tf.evaluation import build_images, metrics
from melanoma_tf.training import build, callbacks, checkpoint, fold, optimizers, run_dir, stages
from tests.support import tiny
from tests.support.process import HANG_S, wait_for
from tfrecord_tools import schema

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_model")]
ONE_CPU = select.Runtime("tensorflow", "cpu", ("CPU:0",), "test")

# Settings, and a step to be killed after; eight steps an epoch without oversampling.
RECIPES: dict[str, tuple[dict[str, Any], int]] = {
    "diagnosis and metadata": (
        {"head": "target+diagnosis", "metadata": "sex, age, site", "pooling": "gem", "augment": "flip|mixup(0.4)"},
        11,
    ),
    "softmax and balanced batches": (
        {"head": "diagnosis", "positive_share": 0.25, "dropout_samples": 3, "target": "malignant"},
        13,
    ),
    "head first": (
        {"freeze_epochs": 1, "epochs": 3, "ema": 0.9, "oversample": 2, "loss": "class_balanced", "layer_decay": 0.7},
        5,
    ),
    # Killed within the first step of a stage: the checkpoint is of the stage before.
    "a stage begins": ({"first_sizes": "40x1", "freeze_epochs": 1, "epochs": 3, "accumulate_steps": 3}, 9),
    "growing images": (
        {"first_sizes": "32x1", "image_size": 40, "epochs": 3, "pooling": "max", "optimizer": "radam", "lookahead": 3},
        12,
    ),
    "stopped early": (
        {"patience": 1, "epochs": 6, "lr": 1e-6, "optimizer": "adamw", "loss": "bce", "pos_weight": 3.0},
        9,
    ),
}


def config_of(settings):
    config = tiny.config(checkpoint_every=2, dropout=0.5, tta=False)
    config.update(settings)
    return config


class KilledError(Exception):
    """Stands in for the end of the process."""


def train_until(config, dataset, folder, step, monkeypatch):
    """Trains, and dies after a step whose checkpoint is not written any more."""
    end_of_step = callbacks.TrainingGuard.on_train_batch_end

    def die(self, batch, logs=None):
        if self.progress.step == step:
            raise KilledError
        end_of_step(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainingGuard, "on_train_batch_end", die)
        with pytest.raises(KilledError):
            fold.train(config, dataset, 0, folder, ONE_CPU)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_killed_resumes_to_the_same_bits(dataset, tmp_path, monkeypatch, name):
    settings, step = RECIPES[name]
    config = config_of(settings)
    table = fold.train(config, dataset, 0, tmp_path / "straight", ONE_CPU)
    train_until(config, dataset, tmp_path / "killed", step, monkeypatch)
    resumed = fold.train(config, dataset, 0, tmp_path / "killed", ONE_CPU)
    pd.testing.assert_frame_equal(resumed, table, check_exact=True)
    histories = [pd.read_csv(tmp_path / each / "history.csv") for each in ("straight", "killed")]
    same = [name for name in histories[0] if name not in ("loss", "images_per_s", "seconds")]
    pd.testing.assert_frame_equal(histories[0][same], histories[1][same])
    assert (histories[0]["skipped_steps"] == 0).all()
    if name == "stopped early":
        assert len(histories[0]) < 6
        best = histories[0]["stop_auc"].argmax()
        assert best == len(histories[0]) - 2
        # The weights of the best epoch, whose AUC from one view the history has.
        auc = metrics.auc(table["target"], table["logit"])
        assert auc == pytest.approx(histories[0]["val_auc"][best], abs=1e-6)


def test_the_diagnoses_are_predicted_beside_the_target(dataset, tmp_path):
    config = config_of({"head": "diagnosis", "epochs": 1})
    table = fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    names = [f"prediction_{word}" for word in schema.DIAGNOSIS]
    np.testing.assert_allclose(table[names].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(table["prediction_melanoma"], table["probability"], rtol=1e-4)


def test_a_run_with_metadata_and_diagnoses_is_predicted_explained_and_reported(shards, dataset, tmp_path):
    fields = "sex, age, site, image_size, images_per_patient"
    config = config_of({"head": "target+diagnosis", "metadata": fields, "epochs": 1, "tta_random": 2})
    run = run_dir.claim(tmp_path / "run", config, [str(shards)], overwrite=False)
    for k in (0, 1):
        run.finish(k, fold.train(config, dataset, k, run.fold(k), ONE_CPU))
    oof = run_dir.read_predictions(run.path / run_dir.OOF).set_index("image_name")
    names, logits = predict.predictions(run, dataset, ONE_CPU, 8)
    found = pd.Series(logits, names["image_name"])[oof.index]
    np.testing.assert_allclose(found, oof["logit"], rtol=1e-3, atol=1e-5)
    table = evaluate.read_run(run.path)
    said = evaluate.write(table, run.path / run_dir.OOF, tmp_path / "report")
    assert "balanced accuracy of" in said
    assert "True by predicted class" in (tmp_path / "report/report.html").read_text()
    images = build_images.read(str(shards), list(oof.index[:2]))
    assert explain.overlays(run, table, images).keys() == set(oof.index[:2])


@pytest.fixture(scope="module")
def partly_labelled(dataset):
    """The data set with fold 4 as a test set."""
    test = tuple(dataclasses.replace(shard, fold=-1, positives=-1) for shard in dataset.fold(4))
    return dataclasses.replace(dataset, train=dataset.others(4), test=test)


def write_soft(path, shards, value):
    names = pipeline.read_metadata(shards)["image_name"]
    pd.DataFrame({"image_name": names, "target": value}).to_csv(path, index=False)
    return len(names)


def test_soft_labels_train_the_images_that_they_name_each_fold_with_its_own(partly_labelled, tmp_path):
    config = config_of({"soft_labels": str(tmp_path / "of{fold}.csv"), "augment": "none"})
    number = write_soft(tmp_path / "of0.csv", partly_labelled.test, 0.875)
    run = fold._FoldRun(config, partly_labelled, 0, tmp_path / "run", ONE_CPU, ())
    others = pipeline.count(partly_labelled.others(0))
    assert (pipeline.count(run.train_shards), run.steps_per_epoch) == (others + number, (others + number) // 8)
    settings: dict[str, Any] = {"batch_size": 8, "image_size": 32, "seed": 0, "skip_steps": 0, "buffer": 64}
    batches = [pipeline.train_batches(run.train_shards, epoch=k, targets=run.targets, **settings) for k in range(3)]
    labels = np.concatenate([target for epoch in batches for _, target in epoch])
    assert set(labels) == {0.0, 0.875, 1.0}
    assert (labels == 0.875).sum() <= 3 * number
    assert set(pipeline.read_metadata(run.held_out)["image_name"]).isdisjoint(run.targets.soft)


def test_soft_labels_are_checked_before_any_fold_is_trained(partly_labelled, tmp_path, capsys):
    config = config_of({"soft_labels": str(tmp_path / "of{fold}.csv")})
    write_soft(tmp_path / "of0.csv", partly_labelled.test, 0.5)
    train.check_soft_labels(config, partly_labelled, [0])
    assert "warning" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"of1\.csv is no file; predict writes such tables"):
        train.check_soft_labels(config, partly_labelled, [0, 1])
    (tmp_path / "of1.csv").write_text("image_name,target\nnobody,0.5\n")
    with pytest.raises(DataError, match="soft labels of 1 images, none of which is in the data"):
        train.check_soft_labels(config, partly_labelled, [0, 1])
    config.soft_labels = str(tmp_path / "of0.csv")
    train.check_soft_labels(config, partly_labelled, [0])
    assert "warning: the same soft labels train every fold" in capsys.readouterr().out


def test_only_the_head_changes_while_the_rest_is_frozen(dataset, tmp_path, monkeypatch):
    """Also not the statistics of batch norm; and the optimizer of the whole model starts afresh."""
    config = config_of({"freeze_epochs": 1, "epochs": 2})
    keras.utils.set_random_seed(config.seed)
    with ONE_CPU.scope():
        _, start = build.build_trainer(stages.at(config, 0).config, 0.3, 8, ONE_CPU.profile, frozen=True)
    before = {layer.name: layer.get_weights() for layer in start.layers if layer.weights}
    train_until(config, dataset, tmp_path, 10, monkeypatch)
    saved = tmp_path / "checkpoints/step-00000008/model.weights.h5"
    start.load_weights(saved)
    changed = {
        layer.name
        for layer in start.layers
        if layer.weights and any((a != b).any() for a, b in zip(layer.get_weights(), before[layer.name], strict=True))
    }
    assert changed == {"logit"}


def test_the_schedule_begins_when_the_whole_model_is_trained():
    config = config_of({"freeze_epochs": 2, "epochs": 6, "warmup_epochs": 1.0, "final_lr_fraction": 0.0})
    head, whole = stages.at(config, 1), stages.at(config, 2)
    rates = [optimizers.learning_rate(stage.config, 10) for stage in (head, whole)]
    assert [float(rates[0](step)) for step in (0, 10, 19)] == pytest.approx([config.freeze_lr] * 3)
    assert [float(rates[1](step)) for step in (0, 10, 25, 40)] == pytest.approx([0, config.lr, config.lr / 2, 0])
    assert head.frozen
    assert not whole.frozen
    assert stages.at(config, 5).matches(whole)


def test_images_grow_as_asked():
    config = config_of({"first_sizes": "64x2, 96x1", "image_size": 128, "epochs": 5})
    assert [stages.at(config, epoch).config.image_size for epoch in range(5)] == [64, 64, 96, 128, 128]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_sizes": "96"}, "got '96', expected PIXELSxEPOCHS"),
        ({"first_sizes": "16x2"}, "at least 32 pixels"),
        ({"first_sizes": "64x4", "epochs": 4}, "takes 4 epochs; expected fewer than config.epochs=4"),
        ({"freeze_epochs": 2, "epochs": 2}, "must be fewer than config.epochs=2"),
    ],
)
def test_stages_that_leave_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        stages.check(config_of(settings))


def test_mixed_images_have_mixed_metadata(dataset):
    config = config_of({"augment": "mixup(1.0)", "metadata": "sex"})
    trainer, _ = build.build_trainer(config, 0.3, 8, ONE_CPU.profile)
    given = keras.ops.convert_to_tensor(np.eye(3, dtype=np.float32)[np.arange(8) % 3])
    seeds = keras.ops.arange(8, dtype="uint32")
    layer = next(layer for layer in trainer.layers if type(layer).__name__ == "MixedMetadata")
    mixed = np.asarray(layer(given, seeds, training=True))
    np.testing.assert_array_equal(mixed, trainer.get_layer("augment").labels(given, seeds, 32, 32))
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-5)
    assert (mixed != np.asarray(given)).any()
    np.testing.assert_array_equal(layer(given, seeds), given)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_process_that_was_killed_resumes_to_the_same_bits(shards, tmp_path, name):
    settings, step = RECIPES[name]
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    common = ["--config.epochs=2", "--config.dropout=0.5", "--config.checkpoint_every=2", "--data", str(shards)]
    flags = [*tiny.SMOKE, *common, *flags]

    def start(folder):
        command = [sys.executable, "-c", tiny.TRAIN, *flags, "--workdir", str(folder)]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, start_new_session=True)

    straight = start(tmp_path / "straight")
    assert straight.wait(HANG_S) == 0
    process = start(tmp_path / "killed")
    last = tmp_path / "killed/fold0/checkpoints/LAST"
    wait_for(lambda: last.is_file() and checkpoint.step_of([last.read_text().strip()]) >= step - 2, HANG_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(HANG_S)
    assert not (tmp_path / "killed/fold0/oof.csv").exists()
    assert start(tmp_path / "killed").wait(HANG_S) == 0
    assert (tmp_path / "killed/oof.csv").read_bytes() == (tmp_path / "straight/oof.csv").read_bytes()
