"""Runs whose number of epochs is raised."""

from __future__ import annotations

import json

import pytest

from melanoma_tf.training import run_dir
from tests.support import tiny


@pytest.fixture
def folder(tmp_path):
    """A run of two epochs: fold 0 is finished, fold 1 has stopped within."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text("{}")
    run = claim(tmp_path, 2)
    for fold in (0, 1):
        (run.fold(fold) / "checkpoints").mkdir(parents=True)
        (run.fold(fold) / "checkpoints/LAST").write_text("step-00000016\n")
    write_history(run, 0, 2)
    (run.fold(0) / "oof.csv").write_text("image_name\n")
    return tmp_path


def claim(folder, epochs, **changes):
    config = tiny.config(**changes)
    config.epochs = epochs
    return run_dir.claim(folder / "run", config, [str(folder / "data")], overwrite=False)


def write_history(run, fold, epochs):
    lines = ["epoch,loss", *(f"{epoch + 1},0.5" for epoch in range(epochs))]
    (run.fold(fold) / "history.csv").write_text("\n".join(lines) + "\n")


def test_more_epochs_go_on_and_are_the_run_from_then_on(folder):
    run = claim(folder, 4)
    assert (run.epochs_before, run.config.epochs) == ((2,), 4)
    assert [run.is_trained(fold) for fold in (0, 1)] == [False, False]
    assert run.finished_folds() == [0]  # until it goes on, its predictions are those of two epochs
    assert claim(folder, 4).epochs_before == (2,)
    assert claim(folder, 7).epochs_before == (2, 4)
    assert run_dir.open_workdir(folder / "run").epochs_before == (2, 4)


def test_a_fold_is_trained_once_it_has_all_epochs_and_predictions(folder):
    run = claim(folder, 4)
    run.reopen(0)
    assert run.finished_folds() == []
    write_history(run, 0, 4)
    assert not run.is_trained(0)  # killed between the last epoch and the predictions
    (run.fold(0) / "oof.csv").write_text("image_name\n")
    assert run.is_trained(0)


@pytest.mark.parametrize(("epochs", "changes"), [(1, {}), (4, {"lr": 0.5})])
def test_fewer_epochs_or_other_settings_are_another_run(folder, epochs, changes):
    before = (folder / "run/run.json").read_text()
    with pytest.raises(run_dir.RunDirError, match="that differs in (epochs: 2 then, 1 now|lr: 0.0003 then)"):
        claim(folder, epochs, **changes)
    assert (folder / "run/run.json").read_text() == before


def test_sessions_are_kept_and_are_not_part_of_the_run(folder):
    run = claim(folder, 2)
    run.record({"command": "first"})
    claim(folder, 3).record({"command": "second"})
    assert claim(folder, 3).epochs_before == (2,)
    stored = json.loads((folder / "run/run.json").read_text())
    assert [session["command"] for session in stored["sessions"]] == ["first", "second"]
