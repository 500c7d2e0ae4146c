"""Training of a fold: bit-exact resumption, skipped steps, and equal results on all devices and backends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from melanoma_tf.augment.warp import shears
from melanoma_tf.data import pipeline
from melanoma_tf.devices import profile, select
from melanoma_tf.training import build, callbacks, checkpoint, fold, trackers
from tests.support import optimizers, tiny
from tests.support.events import read_events
from tests.support.process import HANG_S, JAX_ON_CPU, REPOSITORY, run_command, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_model")]


ONE_CPU = select.Runtime("tensorflow", "cpu", ("CPU:0",), "test")


@pytest.fixture(scope="module")
def two():
    """Two replicas, shared by all tests: the collectives of two strategies in one process clash."""
    return select.mirrored(["CPU:0", "CPU:1"], "cpu", "test")


def first_batches(dataset, count):
    batches = pipeline.train_batches(
        dataset.others(0), batch_size=8, image_size=32, seed=0, epoch=0, skip_steps=0, buffer=64
    )
    return list(batches.take(count).as_numpy_iterator())


def run_losses(config, batches, scope):
    keras.utils.set_random_seed(0)
    with scope():
        trainer, _ = build.build_trainer(config, 0.3, 10, ONE_CPU.profile)
    import tensorflow as tf

    found = []
    for features, target in batches:
        batch = tf.data.Dataset.from_tensors((features, target))
        found.append(trainer.fit(batch, verbose=0, shuffle=False).history["loss"][0])
    return found


# ------------------------------------------------------------------------------------------------------ the run


RESUMABLE: dict[str, Any] = {"checkpoint_every": 4, "dropout": 0.5}  # eight steps an epoch
RESUMABLE |= {"optimizer": "adamw", "lookahead": 2, "layer_decay": 0.8, "ema": 0.5, "accumulate_steps": 3}


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    """A run with its predictions, its folder, and (step, finished epochs) of each checkpoint it saved."""
    folder, saved = tmp_path_factory.mktemp("uninterrupted"), []
    save = checkpoint.save

    def record(path, classifier, optimizer, progress):
        saved.append((progress.step, len(progress.history)))
        return save(path, classifier, optimizer, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", record)
        table = fold.train(tiny.config(**RESUMABLE), dataset, 0, folder, ONE_CPU)
    return table, folder, saved


def test_a_run_predicts_each_held_out_image_and_writes_its_files(dataset, uninterrupted):
    table, folder, _ = uninterrupted
    assert sorted(table["image_name"]) == sorted(pipeline.read_metadata(dataset.fold(0))["image_name"])
    assert table["probability"].between(0, 1).all()
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["logit"].astype(float))), rtol=1e-6)
    assert (folder / "model.weights.h5").is_file()
    header, *rows = (folder / "history.csv").read_text().splitlines()
    assert header == "epoch,step,loss,val_loss,val_auc,learning_rate,skipped_steps,images_per_s,seconds"
    assert len(rows) == 2
    history = pd.read_csv(folder / "history.csv")
    # Eight steps an epoch, three an update, of which there are two and five; the first is the warm-up to the default
    # rate, then half a cosine to its hundredth.
    cosines = 0.5 * (1 + np.cos(np.pi * (np.array([1, 4]) - 1) / (5 - 1)))
    np.testing.assert_allclose(history["learning_rate"], 3e-4 * (0.01 + 0.99 * cosines), rtol=1e-4)
    assert history["skipped_steps"].tolist() == [0, 0]
    assert (history["seconds"] > 0).all()


def test_the_loss_of_the_held_out_fold_is_that_of_its_logits(dataset, tmp_path):
    table = fold.train(tiny.config(loss="bce", tta=False, epochs=1), dataset, 0, tmp_path, ONE_CPU)
    chance = np.clip(table["probability"], 1e-7, 1 - 1e-7)
    expected = -np.mean(np.log(np.where(table["target"] == 1, chance, 1 - chance)))
    found = pd.read_csv(tmp_path / "history.csv")["val_loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_a_run_that_is_extended_goes_on_to_the_bits_of_one_that_was_never_interrupted(dataset, uninterrupted, tmp_path):
    longer = tiny.config(**RESUMABLE)
    longer.epochs = 3
    shutil.copytree(uninterrupted[1], tmp_path / "extended")
    (tmp_path / "straight").mkdir()
    extended, straight = (
        fold.train(longer, dataset, 0, tmp_path / name, ONE_CPU, epochs_before=[2]) for name in ("extended", "straight")
    )
    np.testing.assert_array_equal(extended["logit"], straight["logit"])
    assert not np.array_equal(extended["logit"], uninterrupted[0]["logit"])
    first, second = (pd.read_csv(tmp_path / name / "history.csv") for name in ("extended", "straight"))
    repeated = ["epoch", "step", "val_loss", "val_auc", "learning_rate", "skipped_steps"]
    pd.testing.assert_frame_equal(first[repeated], second[repeated])
    assert first["epoch"].tolist() == [1, 2, 3]


def test_history_of_an_earlier_version_is_continued(dataset, uninterrupted, tmp_path):
    """Its rows lack the columns that came later."""
    shutil.copytree(uninterrupted[1], tmp_path / "run")
    for state in (tmp_path / "run/checkpoints").glob("step-*/state.json"):
        content = json.loads(state.read_text())
        content["history"] = [
            {key: row[key] for key in ("epoch", "step", "loss", "val_auc", "skipped_steps", "images_per_s")}
            for row in content["history"]
        ]
        state.write_text(json.dumps(content))
    longer = tiny.config(**RESUMABLE)
    longer.epochs = 3
    fold.train(longer, dataset, 0, tmp_path / "run", ONE_CPU, epochs_before=[2])
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert history.columns[:5].tolist() == ["epoch", "step", "loss", "val_loss", "val_auc"]
    assert history["seconds"].notna().tolist() == [False, False, True]


NEVER = callbacks.Termination(held=False)


class KilledError(Exception):
    """Stands in for the end of the process."""


@pytest.mark.parametrize("at_step", [4, 12])
def test_a_run_that_was_killed_resumes_to_the_same_bits(dataset, uninterrupted, tmp_path, monkeypatch, at_step):
    config = tiny.config(**RESUMABLE)
    table, folder, _ = uninterrupted
    end_of_step = callbacks.TrainingGuard.on_train_batch_end

    def die(self, batch, logs=None):
        end_of_step(self, batch, logs)
        if self.progress.step == at_step + 1:
            raise KilledError

    def train():
        with trackers.Log(["tensorboard"], tmp_path, "run", "fold0", config) as log:
            return fold.train(config, dataset, 0, tmp_path, ONE_CPU, log_to=log)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainingGuard, "on_train_batch_end", die)
        with pytest.raises(KilledError):
            train()
    assert (tmp_path / "checkpoints/LAST").read_text() == f"step-{at_step:08d}\n"
    resumed = train()
    np.testing.assert_array_equal(resumed["logit"], table["logit"])
    found, expected = (pd.read_csv(path / "history.csv")["loss"] for path in (tmp_path, folder))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    scalars, images = read_events(tmp_path / "tensorboard")
    history = pd.read_csv(tmp_path / "history.csv")
    for column in history:
        np.testing.assert_allclose(scalars[column], np.column_stack([[8, 16], history[column]]), rtol=1e-6)
    assert [step for step, _ in images["roc"]] == [8, 16]
    # One sheet, unless no epoch was finished that would have to be continued.
    assert [step for step, _ in images["augmented"]] == ([0, 0] if at_step < 8 else [0])
    sheet = images["augmented"][-1][1]
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000  # photographs


@pytest.fixture
def interrupting():
    """SIGTERM raises KeyboardInterrupt, as it does in the commands."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield interrupt
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("at_step", [6, 8])
def test_sigterm_saves_at_the_end_of_the_step_and_the_run_resumes_to_the_same_bits(
    dataset, uninterrupted, tmp_path, monkeypatch, interrupting, at_step
):
    """At the last step of an epoch the epoch is finished first."""
    config = tiny.config(**RESUMABLE)
    end_of_step = callbacks.TrainingGuard.on_train_batch_end

    def terminate(self, batch, logs=None):
        if self.progress.step == at_step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        end_of_step(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainingGuard, "on_train_batch_end", terminate)
        with pytest.raises(KeyboardInterrupt):
            fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    assert signal.getsignal(signal.SIGTERM) is interrupting
    assert (tmp_path / "checkpoints/LAST").read_text() == f"step-{at_step:08d}\n"
    if at_step == 8:
        assert len(pd.read_csv(tmp_path / "history.csv")) == 1
        return
    resumed = fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    np.testing.assert_array_equal(resumed["logit"], uninterrupted[0]["logit"])
    found, expected = (pd.read_csv(path / "history.csv")["loss"] for path in (tmp_path, uninterrupted[1]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_second_sigterm_acts_at_once_and_none_is_held_where_saving_would_not_be_exact(interrupting):
    def terminate(held, times):
        with callbacks.Termination(held):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
                done.append(held)

    for held, times, survived in ((True, 1, 1), (True, 2, 1), (False, 1, 0)):
        done: list[bool] = []
        with pytest.raises(KeyboardInterrupt):
            terminate(held, times)
        assert len(done) == survived
        assert signal.getsignal(signal.SIGTERM) is interrupting


def test_a_checkpoint_at_the_end_of_an_epoch_is_written_once_with_its_history(uninterrupted):
    assert uninterrupted[2] == [(4, 0), (8, 1), (12, 1), (16, 2)]


def test_a_loss_that_was_not_finite_stays_in_its_epoch():
    progress = checkpoint.Progress(step=10, loss=float("nan"))
    guard = callbacks.TrainingGuard(tiny.config(), 20, None, None, progress, 0, NEVER)
    guard.steps = 4
    assert guard.mean_loss(0.5) == 0.5
    progress.loss = 1.0
    resumed = callbacks.TrainingGuard(tiny.config(), 20, None, None, progress, 6, NEVER)
    resumed.steps = 4
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
    trainer, classifier = build.build_trainer(tiny.config(augment="none"), 0.3, 10, ONE_CPU.profile)
    (features, target), _ = first_batches(dataset, 2)
    white = {**features, "image": np.full_like(features["image"], 255)}
    trainer.train_on_batch(features, target)
    before = weights_of(classifier)
    if where == "loss":
        trainer.train_on_batch(features, np.full_like(target, 2.0))
        # Moving statistics may change, because the images are finite; trained weights must not.
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
        trainer, classifier = build.build_trainer(tiny.config(freeze_batch_norm=True), 0.3, 10, two.profile)
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
    # An epoch has eight steps, so the steps are counted across epochs.
    config = tiny.config(max_bad_steps=12, checkpoint_every=5, epochs=8, accumulate_steps=16)
    monkeypatch.setattr(build.losses, "build", lambda *a, **k: lambda y, logits: keras.ops.mean(logits) * float("nan"))
    with pytest.raises(callbacks.DivergedError, match=r"12 consecutive steps, up to step 24, .*--config.lr"):
        fold.train(config, dataset, 0, tmp_path, ONE_CPU)
    assert (tmp_path / "checkpoints/LAST").read_text() == "step-00000020\n"


def test_pretrained_weights_are_loaded_unless_there_is_a_checkpoint(dataset, tmp_path, monkeypatch):
    loaded = []

    def load(*args):
        loaded.append(args)
        return "test"

    monkeypatch.setattr(build.pretrained, "load", load)
    (tmp_path / "checkpoints").mkdir()  # as after a kill during the first checkpoint
    fold.train(tiny.config(epochs=1), dataset, 0, tmp_path, ONE_CPU)
    assert len(loaded) == 1
    fold.train(tiny.config(epochs=1), dataset, 0, tmp_path, ONE_CPU)
    assert len(loaded) == 1


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
        ({"batch_size": 1000}, pipeline.DataError, "fold 0 has .* training images, fewer than one batch of 1000"),
        ({"model": "resnet"}, ValueError, "unknown backbone 'resnet'; expected one of: efficientnet-b0"),
        ({"augment": "spin"}, ValueError, "unknown op 'spin'"),
        ({"warmup_epochs": 2.0}, ValueError, "warm-up of .* steps does not fit"),
    ],
)
def test_impossible_settings_are_reported(dataset, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        fold.train(tiny.config(**change), dataset, 0, tmp_path, ONE_CPU)


def test_an_unknown_fold_is_reported(dataset, tmp_path):
    with pytest.raises(pipeline.DataError, match="has no fold 7; expected 0 to 4"):
        fold.train(tiny.config(), dataset, 7, tmp_path, ONE_CPU)


def test_moving_averages_are_evaluated_and_saved(dataset, tmp_path):
    table = fold.train(tiny.config(ema=0.5, tta=False), dataset, 0, tmp_path, ONE_CPU)
    classifier = build.build_classifier(tiny.config())
    classifier.load_weights(tmp_path / "model.weights.h5")
    from melanoma_tf.inference import predictor

    again = predictor.predict_outputs(
        predictor.predictor(classifier, tta=False), dataset.fold(0), batch_size=8, image_size=32
    )
    np.testing.assert_allclose(table["logit"], again[:, 0], rtol=1e-6)
    live = build.build_trainer(tiny.config(ema=0.5), 0.3, 10, ONE_CPU.profile)
    checkpoint.restore(tmp_path / "checkpoints", live[1], live[0].optimizer)
    assert any((a != b).any() for a, b in zip(live[1].get_weights(), classifier.get_weights(), strict=True))


# ------------------------------------------------------------------------------------- devices and backends


def test_two_replicas_train_as_one_device_does(dataset, two):
    # Batch norm frozen: each replica would take the statistics of its own half of the batch.
    changes = {"optimizer": "radam", "lr": 0.01, "weight_decay": 0.1, "lookahead": 2, "layer_decay": 0.8, "ema": 0.5}
    config = tiny.config(freeze_batch_norm=True, dropout=0.0, drop_connect=0.0, warmup_epochs=0.0, **changes)
    batches = first_batches(dataset, 1) * 4
    assert two.replicas == 2
    on_one, on_two = run_losses(config, batches, ONE_CPU.scope), run_losses(config, batches, two.scope)
    assert abs(on_one[0] - on_one[3]) > 1e-4  # it trains: the batch is the same
    np.testing.assert_allclose(on_two, on_one, rtol=1e-5)


def test_accumulation_on_two_replicas_of_tensorflow_is_refused(two):
    with pytest.raises(ValueError, match="config.accumulate_steps=2: under TensorFlow .* got 2; pass --backend jax"):
        build.build_trainer(tiny.config(accumulate_steps=2), 0.3, 10, two.profile)


def test_a_run_on_two_replicas_resumes_too(dataset, two, tmp_path):
    config = tiny.config(epochs=2)
    uninterrupted = fold.train(config, dataset, 0, tmp_path, two)
    (tmp_path / "model.weights.h5").unlink()  # as after a kill between the last checkpoint and the final weights
    resumed = fold.train(config, dataset, 0, tmp_path, two)
    assert (tmp_path / "model.weights.h5").is_file()
    np.testing.assert_allclose(resumed["logit"], uninterrupted["logit"], rtol=1e-4)


@pytest.mark.parametrize(("size", "method"), [(shears.LARGEST, "shears"), (shears.LARGEST + 32, "matmul")])
def test_images_too_large_to_be_sheared_are_turned_by_products(size, method):
    config = tiny.config(image_size=size)
    config.tpu.warp = "shears"
    trainer, _ = build.build_trainer(config, 0.3, 10, profile.DeviceProfile("jax", "tpu", "TPU v5 lite"))
    assert trainer.get_layer("augment").method == method


def test_the_run_says_whether_xla_compiles_it_and_what_prevents_it():
    gpu, tpu = (profile.DeviceProfile("tensorflow", kind) for kind in ("gpu", "tpu"))
    on_cpu, _ = build.build_trainer(tiny.config(), 0.3, 10, ONE_CPU.profile)
    assert build.describe_xla(on_cpu, ONE_CPU.profile) == "XLA: off, on CPUs TensorFlow's own kernels are faster"
    on_gpu, classifier = build.build_trainer(tiny.config(), 0.3, 10, gpu)
    on_gpu.jit_compile = True
    assert build.describe_xla(on_gpu, gpu) == "XLA: on"
    on_gpu.jit_compile = False
    on_tpu, _ = build.build_trainer(tiny.config(), 0.3, 10, tpu)
    on_tpu.jit_compile = False  # as Keras has it under TPUStrategy
    assert build.describe_xla(on_tpu, tpu) == "XLA: on, a TPU runs nothing else"
    assert build.describe_xla(on_gpu, gpu) == "XLA: off, as Keras does under MirroredStrategy"
    classifier.get_layer("stem_conv").supports_jit = False
    assert build.describe_xla(on_gpu, gpu) == "XLA: OFF, which makes each step slower: it cannot compile stem_conv"


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A function of a backend and more arguments that runs tests.support.three_steps, on the same weights each time."""
    weights = str(tmp_path_factory.mktemp("weights"))

    def run(backend, *args):
        environment = JAX_ON_CPU if backend == "jax" else {"KERAS_BACKEND": backend}
        done = run_command("-m", "tests.support.three_steps", weights, *args, **environment)
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["backend"] == backend
        return found

    return run


def test_tensorflow_and_jax_find_the_same_losses(three_steps):
    """Three steps of EfficientNet-B0's first two blocks, augmentation included, from the same weights."""
    tensorflow, jax = three_steps("tensorflow"), three_steps("jax")
    np.testing.assert_allclose(jax["augmented"], tensorflow["augmented"], atol=1e-5)
    _assert_same_steps(jax["two_blocks"], tensorflow["two_blocks"])
    for name, found in jax["optimizers"].items():
        optimizers.assert_by_hand(found, name)


@pytest.mark.slow
def test_the_whole_b0_and_rewritten_graphs_find_the_same_losses_too(three_steps):
    found = {backend: three_steps(backend, "all") for backend in ("tensorflow", "jax")}
    _assert_same_steps(found["jax"]["b0"], found["tensorflow"]["b0"])
    for backend, changes in {"tensorflow": 1, "jax": 3}.items():  # splits; under JAX fast layers and both as well
        changed = [steps for name, steps in found[backend].items() if name.startswith("two_blocks_")]
        assert len(changed) == changes
        for steps in changed:
            _assert_same_steps(steps, found[backend]["two_blocks"])
    # One of the two blocks widens, of B0 fifteen, and the last convolution; one of the two has few channels, of B0 two.
    assert all(layers == [0, 0] for layers in found["jax"]["float32"].values())
    on_tpu = found["jax"]["mixed_bfloat16"].pop("tpu, True")
    assert on_tpu == [1, 1]
    assert all(layers == [0, 0] for layers in found["jax"]["mixed_bfloat16"].values())
    assert found["jax"]["b0_fast"] == {"whole": [16, 2], "split": [16, 2], "split in part": [16, 1]}
    usual, fast = found["jax"]["half"]
    assert fast != usual
    np.testing.assert_allclose(fast["losses"], usual["losses"], atol=5e-4)
    np.testing.assert_allclose(fast["statistics"], usual["statistics"], atol=1e-4)
    built, *rebuilt = found["jax"]["rebuilt"]
    assert built[0] == [1, 1]
    for counts, loss in rebuilt:
        assert (counts, loss) == (built[0], pytest.approx(built[1], rel=1e-5))


def _assert_same_steps(found, expected):
    first, _, third = expected["losses"]
    assert abs(first - third) > 5e-5  # it trains
    np.testing.assert_allclose(found["losses"], expected["losses"], atol=5e-6)
    assert np.ptp(expected["statistics"]) > 0.1
    np.testing.assert_allclose(found["statistics"], expected["statistics"], atol=5e-6)


def test_sigkill_during_training_loses_nothing_that_was_saved(shards, tmp_path):
    """Kills the command with SIGKILL and runs it again: it resumes from the checkpoint and finishes."""
    args = ["--data", str(shards), "--workdir", str(tmp_path / "run"), "--strategy", "cpu"]
    settings = {"image_size": 32, "batch_size": 8, "epochs": 3, "weights": "none", "checkpoint_every": 2}
    args += [f"--config.{key}={value}" for key, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", tiny.TRAIN, *args], cwd=REPOSITORY, env=dict(os.environ), stderr=subprocess.DEVNULL
    )
    last = tmp_path / "run/fold0/checkpoints/LAST"
    deadline = time.monotonic() + HANG_S
    while process.poll() is None and not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = process.poll()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ended is None, f"training ended with {ended} before its first checkpoint"
    assert last.is_file(), f"no checkpoint after {HANG_S} s"
    assert not (tmp_path / "run/oof.csv").exists()
    done = run_command("-c", tiny.TRAIN, *args)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fold 0 resumes at step" in done.stderr
    assert (tmp_path / "run/oof.csv").is_file()


def test_ctrl_c_during_training_is_one_line_that_says_how_to_go_on(shards, tmp_path):
    args = ["--data", str(shards), "--workdir", str(tmp_path / "run"), "--strategy", "cpu", "--config.epochs=900"]
    settings = {"image_size": 32, "batch_size": 8, "weights": "none", "checkpoint_every": 2}
    args += [f"--config.{key}={value}" for key, value in settings.items()]
    code = f"import signal; signal.signal(2, signal.default_int_handler); {tiny.TRAIN}"
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: process.poll() is not None or (tmp_path / "run/fold0/checkpoints/LAST").is_file(), HANG_S)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate()
    assert process.returncode == 1
    last = f"error: interrupted; the same command goes on from the last checkpoint in {tmp_path / 'run'} (fold0)\n"
    assert text.endswith(last)
    assert "Traceback" not in text
