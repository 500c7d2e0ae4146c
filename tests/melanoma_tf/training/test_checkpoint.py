"""Checkpoints: exact restore, reported damage, and failed saves that keep the previous checkpoint."""

from __future__ import annotations

import errno

import keras
import numpy as np
import pytest

from melanoma_tf.core import files
from melanoma_tf.training import checkpoint
from melanoma_tf.training.step import SkippingOptimizer


def small(use_ema=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    inner = keras.optimizers.Adam(0.1, use_ema=use_ema, ema_momentum=0.5)
    model.compile(SkippingOptimizer(inner, initial_scale=1.0), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


X, Y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def fit(model, epochs=1):
    model.fit(X, Y[:, :1], epochs=epochs, batch_size=4, shuffle=False, verbose=0)


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("use_ema", [False, True])
def test_a_restored_run_continues_to_the_same_bits(tmp_path, use_ema):
    straight, stopped, resumed = small(use_ema), small(use_ema), small(use_ema)
    fit(straight, 2)
    fit(stopped)
    progress = checkpoint.Progress(step=2, history=[{"epoch": 1, "loss": 0.5}])
    checkpoint.save(tmp_path, stopped, stopped.optimizer, progress)
    assert checkpoint.restore(tmp_path, resumed, resumed.optimizer) == progress
    fit(resumed)
    # Without the state of dropout the second epoch would drop other units.
    assert same(straight, resumed)


def test_nothing_to_restore_is_none(tmp_path):
    model = small()
    assert checkpoint.restore(tmp_path / "none", model, model.optimizer) is None


def test_only_the_last_two_are_kept(tmp_path):
    model = small()
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LAST", "step-00000003", "step-00000010"]
    assert (tmp_path / "LAST").read_text() == "step-00000010\n"


def test_a_flipped_byte_is_reported_with_the_remedy(tmp_path):
    model = small()
    folder = checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(1))
    content = bytearray((folder / "model.weights.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.weights.h5").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"model.weights.h5 is damaged.*LAST"):
        checkpoint.restore(tmp_path, model, model.optimizer)


def test_a_missing_file_and_another_model_are_reported(tmp_path):
    model = small()
    folder = checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(1))
    other = small(use_ema=True)
    with pytest.raises(checkpoint.CheckpointError, match="training.npz belongs to another model or optimizer"):
        checkpoint.restore(tmp_path, other, other.optimizer)
    (folder / "training.npz").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="training.npz is missing"):
        checkpoint.restore(tmp_path, model, model.optimizer)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(1))
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint saved at step 2: 1 weights are not .*kernel"):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(2))
    assert (tmp_path / "LAST").read_text() == "step-00000001\n"


@pytest.mark.parametrize("culprit", ["savez", "replace"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, culprit):
    model, before = small(), small()
    checkpoint.save(tmp_path, before, before.optimizer, checkpoint.Progress(1))
    fit(model)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.np if culprit == "savez" else checkpoint.os, culprit, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(2))
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LAST", "step-00000001"]
    assert checkpoint.restore(tmp_path, model, model.optimizer) == checkpoint.Progress(1)
    assert same(model, before)


def test_averaged_weights_are_swapped_in_and_the_same_bits_restored():
    model = small(use_ema=True)
    average = None
    for _ in range(3):
        model.fit(X, Y[:, :1], epochs=1, batch_size=8, shuffle=False, verbose=0)
        weights = [w.copy() for w in model.get_weights()]
        # Momentum 0.5, starting from the weights after the first step.
        average = weights if average is None else [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
    before = model.get_weights()
    with checkpoint.averaged(model, model.optimizer):
        for found, expected in zip(model.get_weights(), average or [], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_a_text_file_is_replaced_atomically(tmp_path, monkeypatch):
    files.write_text(tmp_path / "x", "old")
    monkeypatch.setattr(files.os, "replace", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        files.write_text(tmp_path / "x", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"
