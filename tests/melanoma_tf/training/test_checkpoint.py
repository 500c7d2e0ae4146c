"""Checkpoints: exact restore, reported damage, and failed saves that keep the previous checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from melanoma_tf.core import files
from melanoma_tf.training import checkpoint, optimizers
from melanoma_tf.training.step import SkippingOptimizer

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None


def small(use_ema=False, everything=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    inner = keras.optimizers.Adam(0.1, use_ema=use_ema, ema_momentum=0.5)
    if everything:
        additions = (optimizers.Lookahead, optimizers.LayerDecay, optimizers.AccumulatedAverage)
        options = {"sync_period": 2, "rates": {v.path: 0.5 for v in model.variables}, "weight_decay": 0.1}
        inner = optimizers.extended(optimizers.RectifiedAdam, *additions)(
            0.1, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=3, **options
        )
    model.compile(SkippingOptimizer(inner, initial_scale=1.0), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


X, Y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def fit(model, epochs=1):
    model.fit(X, Y[:, :1], epochs=epochs, batch_size=4, shuffle=False, verbose=0)


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("options", [{}, {"use_ema": True}, {"everything": True}], ids=str)
def test_a_restored_run_continues_to_the_same_bits(tmp_path, options):
    straight, stopped, resumed = small(**options), small(**options), small(**options)
    epochs = 4 if "everything" in options else 1  # two batches each: two of the next update's three are accumulated
    fit(straight, 2 * epochs)
    fit(stopped, epochs)
    progress = checkpoint.Progress(step=2, history=[{"epoch": 1, "loss": 0.5}])
    checkpoint.save(tmp_path, stopped, stopped.optimizer, progress)
    assert checkpoint.restore(tmp_path, resumed, resumed.optimizer) == progress
    fit(resumed, epochs)
    # Without the state of dropout the second epoch would drop other units.
    assert same(straight, resumed)
    for found, expected in zip(resumed.optimizer.variables, straight.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


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
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint saved at step 2: 1 variable is not .*kernel"):
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
    with pytest.raises(
        checkpoint.CheckpointError, match=f"No space left .*the last good checkpoint is {tmp_path}/step-00000001"
    ):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(2))
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LAST", "step-00000001"]
    assert checkpoint.restore(tmp_path, model, model.optimizer) == checkpoint.Progress(1)
    assert same(model, before)


@pytest.mark.skipif(resource is None, reason="files cannot be limited on this system")
def test_what_does_not_fit_is_an_error_that_names_the_last_good_checkpoint(tmp_path):
    """The kernel refuses to let files grow, as on a full disk; HDF5 would end the process when it leaves."""
    model, folder, final = small(), tmp_path / "checkpoints", tmp_path / "model.weights.h5"
    checkpoint.save(folder, model, model.optimizer, checkpoint.Progress(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        good = f"cannot be saved: File too large; the last good checkpoint is {folder}/step-00000001; make room"
        with pytest.raises(checkpoint.CheckpointError, match=f"the checkpoint of step 2 {good}"):
            checkpoint.save(folder, model, model.optimizer, checkpoint.Progress(2))
        with pytest.raises(checkpoint.CheckpointError, match=f"the final weights {final} {good}"):
            checkpoint.save_final(final, model)
        with pytest.raises(checkpoint.CheckpointError, match=f"there is no checkpoint in {tmp_path}/other yet"):
            checkpoint.save(tmp_path / "other", model, model.optimizer, checkpoint.Progress(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in folder.iterdir()) == ["LAST", "step-00000001"]
    assert checkpoint.restore(folder, model, model.optimizer) == checkpoint.Progress(1)
    assert not final.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / f".{os.getpid()}.x.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        files.write_text(tmp_path / "x.csv", "text")
    assert raised.value.filename == str(tmp_path / "x.csv")


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


# --------------------------------------------------------------------------------- files from elsewhere


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("use_ema", [False, True])
def test_an_optimizer_that_is_not_finite_is_not_saved(tmp_path, use_ema, value):
    model = small(use_ema)
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(1))
    victims = [v for v in model.optimizer.variables if len(v.shape) == 2]
    assert len(victims) == (6 if use_ema else 4)  # moments, and moving averages, of two kernels
    victims[-1].assign(np.full(victims[-1].shape, value, np.float32))
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint saved at step 2: 1 variable is not finite"):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LAST", "step-00000001"]
    victims[-1].assign(np.zeros(victims[-1].shape, np.float32))
    assert checkpoint.restore(tmp_path, model, model.optimizer) == checkpoint.Progress(1)


@pytest.mark.parametrize(
    "last", [b"../elsewhere\n", b"/etc", b"..", b"", b"step-1\n", b"\xff\xfe\0\n", b"step-00000001/.."]
)
def test_a_last_that_names_no_checkpoint_is_reported(tmp_path, last):
    model = small()
    folder = tmp_path / "run"
    checkpoint.save(folder, model, model.optimizer, checkpoint.Progress(1))
    shutil.copytree(folder / "step-00000001", tmp_path / "elsewhere")
    (folder / "LAST").write_bytes(last)
    for read in (lambda: checkpoint.restore(folder, model, model.optimizer), lambda: checkpoint.newest(folder)):
        with pytest.raises(
            checkpoint.CheckpointError, match="LAST is damaged: .*write the name of another step-... folder"
        ):
            read()


@pytest.mark.parametrize("name", ["step-00000001", "step-00000001/model.weights.h5", "step-00000001/training.npz"])
def test_links_out_of_the_checkpoints_are_refused(tmp_path, name):
    model = small()
    folder = tmp_path / "run"
    checkpoint.save(folder, model, model.optimizer, checkpoint.Progress(1))
    shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(checkpoint.CheckpointError, match="is a link to .*outside, outside its folder"):
        checkpoint.restore(folder, model, model.optimizer)


def change_state(folder, **changes):
    path = folder / "step-00000007" / "state.json"
    state = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in state.items() if value != "DELETED"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {}},
        {"sha256": {"model.weights.h5": "", "training.npz": ""}},
        {"sha256": {"model.weights.h5": "ab", "training.npz": "ab"}},
        {"sha256": {"../x": "0" * 64}},
        {"sha256": None},
        {"sha256": "DELETED"},
        {"step": -3},
        {"step": "7"},
        {"step": True},
        {"step": 7.0},
        {"step": None},
        {"step": 8},
        {"step": "DELETED"},
        {"streams": "8"},
        {"steps_taken": -2},
        {"loss": "0.5"},
        {"history": {}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_state_that_no_save_writes_is_not_believed(tmp_path, changes):
    model, before = small(), small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(7))
    change_state(tmp_path, **changes)
    with pytest.raises(checkpoint.CheckpointError, match="state.json is damaged: .*LAST"):
        checkpoint.restore(tmp_path, model, model.optimizer)
    assert same(model, before)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff\xfe", b"{", b"[" * 200_000])
def test_a_state_that_is_none_is_reported(tmp_path, content):
    model = small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(7))
    (tmp_path / "step-00000007" / "state.json").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="state.json is damaged"):
        checkpoint.restore(tmp_path, model, model.optimizer)


def sign_again(folder):
    """Makes state.json agree with changed files, as whoever means harm would."""
    step = folder / "step-00000007"
    change_state(folder, sha256={name: files.sha256(step / name) for name in ("model.weights.h5", "training.npz")})


def test_arrays_that_declare_much_are_refused_unread(tmp_path):
    model = small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(7))
    path = tmp_path / "step-00000007" / "training.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name, content in members.items() if b"(4, 3)" in content)
    members[first] = members[first].replace(b"(4, 3), }" + b" " * 12, b"(4000000000000, 3), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    sign_again(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="training.npz belongs to another model or optimizer"):
        checkpoint.restore(tmp_path, model, model.optimizer)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"no archive"])
def test_arrays_that_are_none_are_reported(tmp_path, content):
    model = small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(7))
    (tmp_path / "step-00000007" / "training.npz").write_bytes(content)
    sign_again(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="LAST"):
        checkpoint.restore(tmp_path, model, model.optimizer)


def test_weights_that_read_another_file_are_refused(tmp_path):
    model = small()
    checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(7))
    np.ones(12, "f4").tofile(tmp_path / "secret")
    with h5py.File(tmp_path / "step-00000007" / "model.weights.h5", "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", (4, 3), "f4", external=[(str(tmp_path / "secret"), 0, 48)])
    sign_again(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="vars/0 takes its values from another file"):
        checkpoint.restore(tmp_path, model, model.optimizer)


def test_folders_of_the_user_beside_checkpoints_stay(tmp_path):
    model = small()
    for name in ("step-best", "step-00000001-copy", ".step-notes"):
        (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, model, model.optimizer, checkpoint.Progress(step))
    kept = {"step-best", "step-00000001-copy", ".step-notes", "LAST", "step-00000002", "step-00000003"}
    assert {p.name for p in tmp_path.iterdir()} == kept


# --------------------------------------------------------------------------------------- final weights


@pytest.fixture
def final(tmp_path):
    path = tmp_path / "run" / "fold0" / "model.weights.h5"
    path.parent.mkdir(parents=True)
    model = small()
    checkpoint.save_final(path, model)
    return path, model


def test_final_weights_are_read_back_and_sha256sum_agrees(final, capsys):
    path, model = final
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.weights.h5", "model.weights.h5.sha256"]
    assert (path.parent / "model.weights.h5.sha256").read_text() == f"{files.sha256(path)}  model.weights.h5\n"
    read = small()
    read.layers[0].kernel.assign(np.ones((4, 3)))
    checkpoint.load_final(path, read)
    assert same(read, model)
    assert capsys.readouterr().out == ""


def test_one_exponent_bit_is_noticed(final):
    path, model = final
    with h5py.File(path, "r+") as file:
        kernel = file["layers/dense/vars/0"][()]
        kernel.view(np.uint32)[0, 0] ^= 1 << 30
        file["layers/dense/vars/0"][...] = kernel
    before = model.get_weights()
    with pytest.raises(checkpoint.CheckpointError, match="model.weights.h5 was changed or damaged: its SHA-256 is"):
        checkpoint.load_final(path, model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("content", [b"", b"\n", b"ab  model.weights.h5\n", b"\xff\xfe\0", b"0" * 64])
def test_a_checksum_that_is_none_is_not_skipped(final, content):
    path, model = final
    path.with_name("model.weights.h5.sha256").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="was changed or damaged"):
        checkpoint.load_final(path, model)


def test_weights_of_earlier_versions_are_warned_of_once(final, capsys):
    path, model = final
    shutil.copytree(path.parent, path.parents[1] / "fold1")
    for each in path.parents[1].rglob("*.sha256"):
        each.unlink()
    for fold in ("fold0", "fold1"):
        checkpoint.load_final(path.parents[1] / fold / path.name, model)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {path.parents[1]}: weights without a SHA-256")


def test_missing_and_foreign_final_weights_are_reported(final, tmp_path):
    path, model = final
    with pytest.raises(checkpoint.CheckpointError, match="nowhere.weights.h5 is missing; restore it, or train"):
        checkpoint.load_final(tmp_path / "nowhere.weights.h5", model)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    with pytest.raises(checkpoint.CheckpointError, match="model.weights.h5 cannot be loaded"):
        checkpoint.load_final(path, other)


def test_final_weights_that_are_not_finite_keep_the_earlier_ones(final):
    path, model = final
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    model.layers[0].kernel.assign(np.full((4, 3), np.inf))
    with pytest.raises(checkpoint.CheckpointError, match="model.weights.h5 not written: 1 variable is not finite"):
        checkpoint.save_final(path, model)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_kill_between_weights_and_checksum_leaves_no_other_checksum(final, monkeypatch):
    path, model = final
    model.layers[0].kernel.assign(np.ones((4, 3)))

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.files, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_final(path, model)
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == ["model.weights.h5"]
    checkpoint.load_final(path, model)
