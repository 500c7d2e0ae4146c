"""Atomic checkpoints: a new folder for each, with checksums, and a `LAST` file that names the newest complete one.

checkpoints/step-00001234/  model.weights.h5   weights being trained
                            training.npz       optimizer (moments, moving averages, step), dropout seeds
                            state.json         step, history, SHA-256 of the other two files
checkpoints/LAST            name of the newest complete folder
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melanoma_tf.core import files, keras_compat

KEPT = 2  # the newest, and its predecessor in case the newest is unreadable
WEIGHTS, TRAINING, STATE, LAST = "model.weights.h5", "training.npz", "state.json", "LAST"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or must not be written."""


@dataclasses.dataclass
class Progress:
    """Progress of a run.

    Attributes:
      step: optimizer steps over all epochs, including skipped ones.
      steps_taken: steps that had changed the weights at the last check; -1 before the first.
      streams: parallel streams that make up an epoch's order, see `pipeline.streams`; 0 before training.
      loss: mean over the steps of the epoch so far.
      history: one row per finished epoch.
    """

    step: int = 0
    steps_taken: int = -1
    streams: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def newest(folder: Path) -> list[str]:
    """Returns the paths, relative to `folder`, of the files that `restore` would load; empty without a checkpoint."""
    if not _exists(folder):
        return []
    last = _last(folder)
    return [LAST, *(f"{last.name}/{file}" for file in (WEIGHTS, TRAINING, STATE) if (last / file).is_file())]


def save(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, progress: Progress) -> Path:
    """Writes a checkpoint, points LAST at it and removes all but the newest KEPT.

    Returns:
      The checkpoint's folder.

    Raises:
      CheckpointError: a weight is not finite; nothing is written.
      OSError: e.g. no space left; LAST still names the previous checkpoint.
    """
    bad = [w.path for w in model.weights if not np.all(np.isfinite(keras.ops.convert_to_numpy(w)))]
    if bad:
        raise CheckpointError(
            f"no checkpoint saved at step {progress.step}: {len(bad)} weights are not finite, first {bad[0]}"
        )
    name = f"step-{progress.step:08d}"
    if _exists(folder) and _last(folder) == folder / name:
        return folder / name  # saved already; the folder that LAST names is never replaced
    temporary = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        model.save_weights(temporary / WEIGHTS)
        values = {f"{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_training_state(model, optimizer))}
        np.savez(temporary / TRAINING, **values)
        sums = {file: files.sha256(temporary / file) for file in (WEIGHTS, TRAINING)}
        (temporary / STATE).write_text(json.dumps({**dataclasses.asdict(progress), "sha256": sums}, indent=1) + "\n")
        for file in (WEIGHTS, TRAINING, STATE):
            files.sync(temporary / file)
        shutil.rmtree(folder / name, ignore_errors=True)  # left by a run that was killed before it updated LAST
        os.replace(temporary, folder / name)
        files.sync(folder)
        files.write_text(folder / LAST, name + "\n")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_older(folder, name)
    return folder / name


def restore(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Progress | None:
    """Loads the newest checkpoint into a built model and optimizer.

    Returns:
      The progress of the run that was saved; None without a checkpoint.

    Raises:
      CheckpointError: a file is missing or damaged, or belongs to another model or optimizer.
    """
    if not _exists(folder):
        return None
    path = _last(folder)
    remedy = f"write the name of another step-... folder into {folder / LAST}, or delete {folder} to start again"
    for file in (WEIGHTS, TRAINING, STATE):
        if not (path / file).is_file():
            raise CheckpointError(f"{path / file} is missing; {remedy}")
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path / STATE} is damaged: {error}; {remedy}") from error
    for file, expected in state.pop("sha256").items():
        if files.sha256(path / file) != expected:
            raise CheckpointError(f"{path / file} is damaged: its SHA-256 differs from the one in {STATE}; {remedy}")
    variables = _training_state(model, optimizer)
    with np.load(path / TRAINING, allow_pickle=False) as stored:
        values = [stored[key] for key in sorted(stored.files)]
    if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
        raise CheckpointError(
            f"{path / TRAINING} belongs to another model or optimizer: got {len(values)} variables, "
            f"expected {len(variables)} of the same shapes; {remedy}"
        )
    model.load_weights(path / WEIGHTS)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return Progress(**state)


def save_final(path: Path, model: keras.Model) -> None:
    """Writes the weights of a finished model atomically. path: ends in .weights.h5."""
    with files.replacing(path) as temporary:
        model.save_weights(temporary)


@contextlib.contextmanager
def averaged(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Swaps the optimizer's moving averages into `model` for the block, if it keeps any.

    Restores the trained weights bit for bit; keras.callbacks.SwapEMAWeights adds and subtracts, which rounds.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.use_ema:
        yield
        return
    kept = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    averages = keras_compat.moving_averages(inner)
    for variable in model.trainable_variables:
        variable.assign(keras.ops.convert_to_numpy(averages[variable.path]))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept, strict=True):
            variable.assign(value)


def _exists(folder: Path) -> bool:
    return (folder / LAST).is_file()


def _last(folder: Path) -> Path:
    return folder / (folder / LAST).read_text(encoding="utf-8").strip()


def _training_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the state of training besides the weights: optimizer variables and dropout seeds."""
    weights = {id(w) for w in model.weights}
    return [*optimizer.variables, *(v for v in model.variables if id(v) not in weights)]


def _remove_older(folder: Path, newest: str) -> None:
    names = sorted(p.name for p in folder.glob("step-*"))
    for name in names[: names.index(newest)][: 1 - KEPT]:
        shutil.rmtree(folder / name, ignore_errors=True)
    for left_over in folder.glob(".step-*"):
        shutil.rmtree(left_over, ignore_errors=True)
