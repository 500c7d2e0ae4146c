"""Training of a fold: it resumes to the same bits, skips bad steps, and means the same on any device or backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest

from melanoma_tf.augment.warp import shears
from melanoma_tf.data import pipeline
from melanoma_tf.devices import select
from melanoma_tf.models import backbones
from melanoma_tf.training import build, callbacks, checkpoint, fold
from tests.support import tiny
from tests.support.process import REPOSITORY, run_command


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch):
    monkeypatch.setattr(backbones, "build_classifier", tiny.build_classifier)


@pytest.fixture(scope="module")
def dataset(shards):
    return pipeline.open_data(str(shards))


ONE_CPU = select.Runtime("tensorflow", "cpu", ("CPU:0",), "test")


@pytest.fixture(scope="module")
def two():
    """Two replicas. One strategy for all tests: the collectives of a second one in a process clash with the first's."""
    return select.mirrored(["CPU:0", "CPU:1"], "cpu", "test")


def first_batches(dataset, count):
    batches = pipeline.train_batches(
        dataset.others(0), batch_size=8, image_size=32, seed=0, epoch=0, skip_steps=0, buffer=64
    )
    return list(batches.take(count).as_numpy_iterator())


def run_losses(config, batches, scope):
    keras.utils.set_random_seed(0)
    with scope():
        trainer, _ = build.build_trainer(config, 0.3, 10)
    import tensorflow as tf

    found = []
    for features, target in batches:
        batch = tf.data.Dataset.from_tensors((features, target))
        found.append(trainer.fit(batch, verbose=0, shuffle=False).history["loss"][0])
    return found


# ------------------------------------------------------------------------------------------------------ the run


def test_a_run_predicts_each_held_out_image_and_leaves_its_files(dataset, tmp_path):
    table = fold.train(tiny.config(), dataset, 0, tmp_path, ONE_CPU)
    assert sorted(table["image_name"]) == sorted(pipeline.read_table(dataset.fold(0))["image_name"])
    assert table["probability"].between(0, 1).all()
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["logit"].astype(float))), rtol=1e-6)
    assert (tmp_path / "model.weights.h5").is_file()
    header, *rows = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,step,loss,val_auc,skipped_steps,images_per_s"
    assert len(rows) == 2


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("at_step", [3, 12])
def test_a_run_that_was_killed_resumes_to_the_same_bits(dataset, tmp_path, monkeypatch, at_step):
    config = tiny.config(checkpoint_every=3, dropout=0.5)
    straight = fold.train(config, dataset, 0, tmp_path / "straight", ONE_CPU)

    end_of_step = callbacks.TrainingGuard.on_train_batch_end

    def die(self, batch, logs=None):
        end_of_step(self, batch, logs)
        if self.progress.step == at_step + 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainingGuard, "on_train_batch_end", die)
        with pytest.raises(KilledError):
            fold.train(config, dataset, 0, tmp_path / "killed", ONE_CPU)
    last = (tmp_path / "killed/checkpoints/LAST").read_text()
    assert last == f"step-{at_step:08d}\n"
    resumed = fold.train(config, dataset, 0, tmp_path / "killed", ONE_CPU)
    np.testing.assert_array_equal(resumed["logit"], straight["logit"])
    killed, whole = (pd.read_csv(tmp_path / run / "history.csv")["loss"] for run in ("killed", "straight"))
    np.testing.assert_allclose(killed, whole, rtol=1e-5)


def test_a_loss_that_was_not_finite_stays_in_its_epoch():
    progress = checkpoint.Progress(step=10, loss=float("nan"))
    keeper = callbacks.TrainingGuard(tiny.config(), 20, None, None, progress, skipped=0)
    keeper.made = 4
    assert keeper.mean_loss(0.5) == 0.5
    progress.loss = 1.0
    resumed = callbacks.TrainingGuard(tiny.config(), 20, None, None, progress, skipped=6)
    resumed.made = 4
    assert resumed.mean_loss(0.5) == pytest.approx((6 * 1.0 + 4 * 0.5) / 10)


def weights_of(classifier):
    return [np.copy(w) for w in classifier.get_weights()]


def same_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("where", ["loss", "activations"])
def test_a_step_with_nan_is_skipped_and_changes_nothing(dataset, monkeypatch, where):
    def loss(labels, logits):
        # NaN for the batch that holds the label 2, and with it in every gradient.
        bad = keras.ops.any(labels > 1.5)
        mean = keras.ops.mean(keras.ops.square(keras.ops.squeeze(logits, -1) - keras.ops.minimum(labels, 1.0)))
        return mean * keras.ops.where(bad, float("nan"), 1.0)

    def to_nan(images):
        # A white image becomes NaN on the device, and with it every activation and batch statistic.
        unit = keras.ops.cast(images, "float32") / 255.0
        return keras.ops.where(keras.ops.min(unit) == 1.0, float("nan"), unit)

    if where == "loss":
        monkeypatch.setattr(build.losses, "build", lambda *args, **kwargs: loss)
    else:
        monkeypatch.setattr(build.policy, "_to_unit", to_nan)
    trainer, classifier = build.build_trainer(tiny.config(augment="none"), 0.3, 10)
    (features, target), _ = first_batches(dataset, 2)
    white = {**features, "image": np.full_like(features["image"], 255)}
    trainer.train_on_batch(features, target)
    before = weights_of(classifier)
    if where == "loss":
        trainer.train_on_batch(features, np.full_like(target, 2.0))
        # The batch itself was sound, so the moving statistics may take it in; trained weights must not move.
        trained = [v.path for v in classifier.trainable_variables]
        after = {w.path: v for w, v in zip(classifier.weights, weights_of(classifier), strict=True)}
        old = {w.path: v for w, v in zip(classifier.weights, before, strict=True)}
        assert same_weights([after[p] for p in trained], [old[p] for p in trained])
    else:
        trainer.train_on_batch(white, target)
        assert same_weights(weights_of(classifier), before)
    trainer.train_on_batch(features, target)
    assert not same_weights(weights_of(classifier), before)
    assert all(np.isfinite(w).all() for w in weights_of(classifier))
    assert int(trainer.optimizer.iterations) == 2


@pytest.mark.parametrize("replica", [0, 1])
def test_nan_on_one_replica_stops_the_step_on_all(dataset, two, monkeypatch, replica):
    def loss(labels, logits):
        squares = keras.ops.square(keras.ops.squeeze(logits, -1) - keras.ops.minimum(labels, 1.0))
        return keras.ops.mean(squares * keras.ops.where(labels > 1.5, float("nan"), 1.0))

    import tensorflow as tf

    monkeypatch.setattr(build.losses, "build", lambda *args, **kwargs: loss)
    with two.scope():
        trainer, classifier = build.build_trainer(tiny.config(freeze_batch_norm=True), 0.3, 10)
    ((features, target),) = first_batches(dataset, 1)
    bad = target.copy()
    bad[4 * replica] = 2.0  # replicas get halves of the batch

    def step(labels):
        trainer.fit(tf.data.Dataset.from_tensors((features, labels)), verbose=0, shuffle=False)
        return weights_of(classifier)

    first = step(target)
    assert same_weights(step(bad), first)
    assert callbacks.steps_taken(trainer.optimizer) == 1
    assert not same_weights(step(target), first)


def test_a_run_without_one_good_step_stops_and_keeps_the_last_checkpoint(dataset, tmp_path, monkeypatch):
    # An epoch has eight steps here, so the count goes on over epochs.
    config = tiny.config(max_bad_steps=12, checkpoint_every=5, epochs=8)
    monkeypatch.setattr(build.losses, "build", lambda *a, **k: lambda y, logits: keras.ops.mean(logits) * float("nan"))
    with pytest.raises(callbacks.DivergedError, match=r"12 steps in a row, up to step 24, .*not finite.*--config.lr"):
        fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    assert (tmp_path / "checkpoints/LAST").read_text() == "step-00000020\n"


def test_pretrained_weights_are_loaded_unless_there_is_a_checkpoint(dataset, tmp_path, monkeypatch):
    loaded = []

    def load(*args):
        loaded.append(args)
        return "test"

    monkeypatch.setattr(build.pretrained, "load", load)
    (tmp_path / "checkpoints").mkdir()  # what a kill during the first checkpoint leaves
    fold.train(tiny.config(epochs=1), dataset, 0, tmp_path, ONE_CPU)
    assert len(loaded) == 1
    fold.train(tiny.config(epochs=1), dataset, 0, tmp_path, ONE_CPU)
    assert len(loaded) == 1


def test_a_checkpoint_at_the_end_of_an_epoch_is_written_once_with_its_history(dataset, tmp_path, monkeypatch):
    saved = []
    save = checkpoint.save

    def note(folder, classifier, optimizer, progress):
        saved.append((progress.step, len(progress.history)))
        return save(folder, classifier, optimizer, progress)

    monkeypatch.setattr(checkpoint, "save", note)
    fold.train(tiny.config(checkpoint_every=4), dataset, 0, tmp_path, ONE_CPU)  # eight steps an epoch
    assert saved == [(4, 0), (8, 1), (12, 1), (16, 2)]


def test_eight_views_are_the_mean_over_the_symmetries(dataset):
    from melanoma_tf.inference import predictor

    classifier = build.build_classifier(tiny.config())
    features, _ = first_batches(dataset, 1)[0]
    images = features["image"]
    views = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    views += [view[:, :, ::-1] for view in views]
    expected = np.mean([classifier.predict(view / np.float32(255), verbose=0) for view in views], axis=0)
    found = predictor.predictor(classifier, tta=True).predict({"image": images}, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 1000}, pipeline.DataError, "images train fold 0, fewer than one batch of 1000"),
        ({"model": "resnet"}, ValueError, "unknown backbone 'resnet'; available: efficientnet-b0"),
        ({"augment": "spin"}, ValueError, "unknown op 'spin'"),
        ({"warmup_epochs": 2.0}, ValueError, "warm-up of .* steps does not fit"),
    ],
)
def test_settings_that_cannot_be_are_named(dataset, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        fold.train(tiny.config(**change), dataset, 0, tmp_path, ONE_CPU)


def test_a_fold_that_is_not_there_is_named(dataset, tmp_path):
    with pytest.raises(pipeline.DataError, match="has no fold 7; there are folds 0 to 4"):
        fold.train(tiny.config(), dataset, 7, tmp_path, ONE_CPU)


def test_moving_averages_are_what_is_judged_and_kept(dataset, tmp_path):
    table = fold.train(tiny.config(ema=0.5, tta=False), dataset, 0, tmp_path, ONE_CPU)
    classifier = build.build_classifier(tiny.config())
    classifier.load_weights(tmp_path / "model.weights.h5")
    from melanoma_tf.inference import predictor

    again = predictor.predict_logits(
        predictor.predictor(classifier, tta=False), dataset.fold(0), batch_size=8, image_size=32
    )
    np.testing.assert_allclose(table["logit"], again, rtol=1e-6)
    live = build.build_trainer(tiny.config(ema=0.5), 0.3, 10)
    checkpoint.restore(tmp_path / "checkpoints", live[1], live[0].optimizer)
    assert any((a != b).any() for a, b in zip(live[1].get_weights(), classifier.get_weights(), strict=True))


# ------------------------------------------------------------------------------------- devices and backends


def test_two_replicas_train_as_one_device_does(dataset, two):
    # Batch norm frozen: each replica would take the statistics of its own half of the batch.
    config = tiny.config(freeze_batch_norm=True, dropout=0.0, drop_connect=0.0, warmup_epochs=0.0)
    batches = first_batches(dataset, 1) * 4
    assert two.replicas == 2
    on_one, on_two = run_losses(config, batches, ONE_CPU.scope), run_losses(config, batches, two.scope)
    assert abs(on_one[0] - on_one[3]) > 1e-4  # it trains: the batch is the same
    np.testing.assert_allclose(on_two, on_one, rtol=1e-5)


def test_a_run_on_two_replicas_resumes_too(dataset, two, tmp_path, monkeypatch):
    config = tiny.config(epochs=2)
    straight = fold.train(config, dataset, 0, tmp_path / "straight", two)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_final", lambda *args: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            fold.train(config, dataset, 0, tmp_path / "killed", two)
    resumed = fold.train(config, dataset, 0, tmp_path / "killed", two)
    np.testing.assert_allclose(resumed["logit"], straight["logit"], rtol=1e-4)


@pytest.mark.parametrize(("size", "method"), [(shears.LARGEST, "shears"), (shears.LARGEST + 32, "matmul")])
def test_images_too_large_to_be_sheared_are_turned_by_products(size, method):
    trainer, _ = build.build_trainer(tiny.config(image_size=size), 0.3, 10, resampling="shears")
    assert trainer.get_layer("augment").method == method


def test_the_run_says_whether_xla_compiles_it_and_what_prevents_it():
    on_cpu, _ = build.build_trainer(tiny.config(), 0.3, 10, resampling="kernel")
    assert build.describe_xla(on_cpu) == "XLA: off, on CPUs TensorFlow's own kernels are faster"
    elsewhere, classifier = build.build_trainer(tiny.config(), 0.3, 10, resampling="gather")
    elsewhere.jit_compile = True
    assert build.describe_xla(elsewhere) == "XLA: on"
    elsewhere.jit_compile = False
    on_tpu, _ = build.build_trainer(tiny.config(), 0.3, 10, resampling="matmul")
    on_tpu.jit_compile = False  # as Keras has it under TPUStrategy
    assert build.describe_xla(on_tpu) == "XLA: on, a TPU runs nothing else"
    assert build.describe_xla(elsewhere) == "XLA: off, as Keras does under MirroredStrategy"
    classifier.get_layer("stem_conv").supports_jit = False
    assert build.describe_xla(elsewhere) == "XLA: OFF, which makes each step slower: it cannot compile stem_conv"


def test_tensorflow_and_jax_find_the_same_losses(tmp_path):
    """Three steps of EfficientNet-B0 and of its first two blocks, augmentation included, from the same weights."""
    found = {}
    for backend in ("tensorflow", "jax"):
        done = run_command("-m", "tests.support.three_steps", str(tmp_path), KERAS_BACKEND=backend)
        assert done.returncode == 0, done.stderr[-2000:]
        found[backend] = json.loads(done.stdout.splitlines()[-1])
        assert found[backend]["backend"] == backend
    np.testing.assert_allclose(found["jax"]["augmented"], found["tensorflow"]["augmented"], atol=1e-5)
    for name in ("b0", "two_blocks"):
        first, _, third = found["tensorflow"][name]["losses"]
        assert abs(first - third) > 5e-5  # it trains
        _assert_same_steps(found["jax"][name], found["tensorflow"][name])
    for backend, changes in {"tensorflow": 1, "jax": 3}.items():  # strips; under JAX layers for TPUs and both as well
        changed = [steps for name, steps in found[backend].items() if name.startswith("two_blocks_")]
        assert len(changed) == changes
        for steps in changed:
            _assert_same_steps(steps, found[backend]["two_blocks"])
    # One of the two blocks widens, of B0 fifteen, and the last convolution; one of the two has few channels, of B0 two.
    assert found["jax"]["float32"] == {"gather": [0, 0], "matmul": [0, 0], "shears": [0, 0]}
    assert found["jax"]["mixed_bfloat16"] == {"gather": [0, 0], "matmul": [1, 1], "shears": [1, 1]}
    assert found["jax"]["b0_for_tpu"] == {"whole": [16, 2], "cut": [16, 2], "cut in part": [16, 1]}
    usual, for_tpu = found["jax"]["half"]
    assert for_tpu != usual
    np.testing.assert_allclose(for_tpu["losses"], usual["losses"], atol=5e-4)
    np.testing.assert_allclose(for_tpu["statistics"], usual["statistics"], atol=1e-4)
    built, *rebuilt = found["jax"]["rebuilt"]
    assert built[0] == [1, 1]
    for counts, loss in rebuilt:
        assert (counts, loss) == (built[0], pytest.approx(built[1], rel=1e-5))


def _assert_same_steps(found, expected):
    np.testing.assert_allclose(found["losses"], expected["losses"], atol=5e-6)
    assert np.ptp(expected["statistics"]) > 0.1
    np.testing.assert_allclose(found["statistics"], expected["statistics"], atol=5e-6)


def test_sigkill_during_training_loses_nothing_that_was_saved(shards, tmp_path):
    """A real kill -9 of the command; started again it goes on from the checkpoint and finishes."""
    args = ["--data", str(shards), "--workdir", str(tmp_path / "run"), "--strategy", "cpu"]
    settings = {"image_size": 32, "batch_size": 8, "epochs": 6, "weights": "none", "checkpoint_every": 2}
    args += [f"--config.{key}={value}" for key, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", tiny.TRAIN, *args], cwd=REPOSITORY, env=dict(os.environ), stderr=subprocess.DEVNULL
    )
    last = tmp_path / "run/fold0/checkpoints/LAST"
    while process.poll() is None and not last.is_file():
        time.sleep(0.05)
    assert process.poll() is None, "it ended before its first checkpoint"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run/oof.csv").exists()
    done = run_command("-c", tiny.TRAIN, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fold 0 goes on at step" in done.stderr
    assert (tmp_path / "run/oof.csv").is_file()
