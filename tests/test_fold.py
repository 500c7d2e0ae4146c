"""Training of a fold: it resumes to the same bits, skips bad steps, and means the same on any device or backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from melanoma_tf import checkpoint, data, fold, model, runtime
from tests import tiny
from tests.conftest import REPOSITORY, run_command


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch):
    monkeypatch.setattr(model, "build_classifier", tiny.build_classifier)


@pytest.fixture(scope="module")
def dataset(shards):
    return data.open_data(str(shards))


ONE_CPU = runtime.Runtime("tensorflow", "cpu", ("CPU:0",), "test")


def first_batches(dataset, count):
    batches = data.train_batches(
        dataset.others(0), batch_size=8, image_size=32, seed=0, epoch=0, skip_steps=0, buffer=64
    )
    return list(batches.take(count).as_numpy_iterator())


def run_losses(config, batches, scope):
    keras.utils.set_random_seed(0)
    with scope():
        trainer, _ = fold.build(config, 0.3, 10)
    import tensorflow as tf

    found = []
    for features, target in batches:
        batch = tf.data.Dataset.from_tensors((features, target))
        found.append(trainer.fit(batch, verbose=0, shuffle=False).history["loss"][0])
    return found


# ------------------------------------------------------------------------------------------------------ the run


def test_a_run_predicts_each_held_out_picture_and_leaves_its_files(dataset, tmp_path):
    table = fold.train(tiny.config(), dataset, 0, tmp_path, ONE_CPU)
    assert sorted(table["image_name"]) == sorted(data.read_table(dataset.fold(0))["image_name"])
    assert table["probability"].between(0, 1).all()
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["logit"].astype(float))), rtol=1e-6)
    assert (tmp_path / "model.weights.h5").is_file()
    header, *rows = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,step,loss,val_auc,skipped_steps,images_per_s"
    assert len(rows) == 2


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


@pytest.mark.parametrize("at_step", [3, 12])
def test_a_run_that_was_killed_resumes_to_the_same_bits(dataset, tmp_path, monkeypatch, at_step):
    config = tiny.config(checkpoint_every=3, dropout=0.5)
    straight = fold.train(config, dataset, 0, tmp_path / "straight", ONE_CPU)

    end_of_step = fold.Keeper.on_train_batch_end

    def die(self, batch, logs=None):
        end_of_step(self, batch, logs)
        if self.progress.step == at_step + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fold.Keeper, "on_train_batch_end", die)
        with pytest.raises(Killed):
            fold.train(config, dataset, 0, tmp_path / "killed", ONE_CPU)
    last = (tmp_path / "killed/checkpoints/LAST").read_text()
    assert last == f"step-{at_step:08d}\n"
    resumed = fold.train(config, dataset, 0, tmp_path / "killed", ONE_CPU)
    np.testing.assert_array_equal(resumed["logit"], straight["logit"])


def test_a_step_with_nan_is_skipped_and_counted(dataset, monkeypatch):
    def loss(labels, logits):
        # NaN for the batch that holds the label 2, and with it in every gradient.
        bad = keras.ops.any(labels > 1.5)
        mean = keras.ops.mean(keras.ops.square(keras.ops.squeeze(logits, -1) - labels))
        return mean * keras.ops.where(bad, float("nan"), 1.0)

    monkeypatch.setattr(fold.losses, "build", lambda *args, **kwargs: loss)
    trainer, classifier = fold.build(tiny.config(freeze_batch_norm=True), 0.3, 10)
    (features, target), (other, other_target) = first_batches(dataset, 2)
    trainer.train_on_batch(features, target)
    before = classifier.get_weights()
    trainer.train_on_batch(other, np.full_like(other_target, 2.0))
    for found, expected in zip(classifier.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    trainer.train_on_batch(features, target)
    assert any((a != b).any() for a, b in zip(classifier.get_weights(), before, strict=True))
    assert int(trainer.optimizer.iterations) == 2


def test_a_run_without_one_good_step_stops_and_keeps_the_last_checkpoint(dataset, tmp_path, monkeypatch):
    config = tiny.config(max_bad_steps=2, checkpoint_every=1)
    monkeypatch.setattr(fold.losses, "build", lambda *a, **k: lambda y, logits: keras.ops.mean(logits) * float("nan"))
    with pytest.raises(fold.Diverged, match=r"2 steps in a row, up to step 4, .*not finite.*--config.lr"):
        fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    assert (tmp_path / "checkpoints/LAST").read_text() == "step-00000003\n"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optimizer": "sgdx"}, ValueError, "config.optimizer='sgdx' is unknown; there is: adam, adamw"),
        ({"batch_size": 1000}, data.BadData, "images train fold 0, fewer than one batch of 1000"),
        ({"model": "resnet"}, ValueError, "unknown backbone 'resnet'; available: efficientnet-b0"),
        ({"augment": "spin"}, ValueError, "no op 'spin'"),
        ({"warmup_epochs": 2.0}, ValueError, "warm-up of .* steps does not fit"),
    ],
)
def test_settings_that_cannot_be_are_named(dataset, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        fold.train(tiny.config(**change), dataset, 0, tmp_path, ONE_CPU)


def test_a_fold_that_is_not_there_is_named(dataset, tmp_path):
    with pytest.raises(data.BadData, match="has no fold 7; there are folds 0 to 4"):
        fold.train(tiny.config(), dataset, 7, tmp_path, ONE_CPU)


def test_moving_averages_are_what_is_judged_and_kept(dataset, tmp_path):
    table = fold.train(tiny.config(ema=0.5, tta=False), dataset, 0, tmp_path, ONE_CPU)
    classifier = fold.build_classifier(tiny.config())
    classifier.load_weights(tmp_path / "model.weights.h5")
    from melanoma_tf import inference

    again = inference.predict_logits(
        inference.predictor(classifier, tta=False), dataset.fold(0), batch_size=8, image_size=32
    )
    np.testing.assert_allclose(table["logit"], again, rtol=1e-6)
    live = fold.build(tiny.config(ema=0.5), 0.3, 10)
    checkpoint.restore(tmp_path / "checkpoints", live[1], live[0].optimizer)
    assert any((a != b).any() for a, b in zip(live[1].get_weights(), classifier.get_weights(), strict=True))


# ------------------------------------------------------------------------------------- devices and backends


def test_two_replicas_train_as_one_device_does(dataset):
    # Batch norm frozen: each replica would take the statistics of its own half of the batch.
    config = tiny.config(freeze_batch_norm=True, dropout=0.0, drop_connect=0.0)
    batches = first_batches(dataset, 4)
    two = runtime.mirrored(["CPU:0", "CPU:1"], "cpu", "test")
    assert two.replicas == 2
    one_loss, two_losses = run_losses(config, batches, ONE_CPU.scope), run_losses(config, batches, two.scope)
    assert one_loss[0] != one_loss[3]
    np.testing.assert_allclose(two_losses, one_loss, rtol=1e-5)


def test_tensorflow_and_jax_find_the_same_losses(tmp_path):
    """Three steps of the real EfficientNet-B0 and of its first block, augmentation included, from the same weights."""
    found = {}
    for backend in ("tensorflow", "jax"):
        done = run_command("-m", "tests.three_steps", str(tmp_path), KERAS_BACKEND=backend)
        assert done.returncode == 0, done.stderr[-2000:]
        found[backend] = json.loads(done.stdout.splitlines()[-1])
        assert found[backend]["backend"] == backend
    np.testing.assert_allclose(found["jax"]["augmented"], found["tensorflow"]["augmented"], atol=1e-5)
    for name in ("b0", "first_block"):
        first, _, third = found["tensorflow"][name]
        assert abs(first - third) > 5e-5  # it trains
        np.testing.assert_allclose(found["jax"][name], found["tensorflow"][name], atol=5e-6, err_msg=name)


def test_sigkill_during_training_loses_nothing_that_was_saved(shards, tmp_path):
    """A real kill -9 of the command; started again it goes on from the checkpoint and finishes."""
    code = (
        "from tests import tiny; from melanoma_tf import model; "
        "model.build_classifier = tiny.build_classifier; from melanoma_tf import train; train.run()"
    )
    args = ["--data", str(shards), "--workdir", str(tmp_path / "run"), "--strategy", "cpu"]
    settings = {"image_size": 32, "batch_size": 8, "epochs": 6, "weights": "none", "checkpoint_every": 2}
    args += [f"--config.{key}={value}" for key, value in settings.items()]
    # absl takes the program's name from argv[0], which `python -c` sets to "-c".
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=REPOSITORY, env=dict(os.environ), stderr=subprocess.DEVNULL
    )
    last = tmp_path / "run/fold0/checkpoints/LAST"
    while process.poll() is None and not last.is_file():
        pass
    assert process.poll() is None, "it ended before its first checkpoint"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run/oof.csv").exists()
    done = run_command("-c", code, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fold 0 goes on at step" in done.stderr
    assert (tmp_path / "run/oof.csv").is_file()
