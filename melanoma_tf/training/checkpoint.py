"""Checkpoints that are whole or not there: a new folder each, checksums, then an atomic `LAST` pointer.

checkpoints/step-00001234/  model.weights.h5   the weights being trained
                            training.npz       optimizer (moments, moving averages, step), states of dropout
                            state.json         step, history, sha256 of the two files
checkpoints/LAST            the name of the newest whole folder
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

KEPT = 2  # the newest and the one before it, should the newest turn out unreadable
WEIGHTS, TRAINING, STATE, LAST = "model.weights.h5", "training.npz", "state.json", "LAST"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or must not be written; the message names the file and what is wrong."""


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    step: optimizer steps asked for so far, over all epochs, skipped ones included. steps_taken: those that changed the
    weights, when last looked at; -1 before. history: one row per finished epoch. streams: on which the order within an
    epoch depends, see `data.streams`; 0 before it is known. loss: mean over the steps of the epoch so far.
    """

    step: int = 0
    steps_taken: int = -1
    streams: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def newest(folder: Path) -> list[str]:
    """The files in `folder` of the checkpoint that `restore` would load, none if there is no checkpoint."""
    if not _exists(folder):
        return []
    last = _last(folder)
    return [LAST, *(f"{last.name}/{file}" for file in (WEIGHTS, TRAINING, STATE) if (last / file).is_file())]


def save(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, progress: Progress) -> Path:
    """Writes a checkpoint of `model` and `optimizer`, points LAST at it and removes those older than the last KEPT.

    Raises:
      CheckpointError: a weight is not finite; nothing is written.
      OSError: e.g. no space left; LAST still names the checkpoint before.
    """
    bad = [w.path for w in model.weights if not np.all(np.isfinite(keras.ops.convert_to_numpy(w)))]
    if bad:
        raise CheckpointError(
            f"not saved at step {progress.step}: {len(bad)} weights are not finite, {bad[0]} the first"
        )
    name = f"step-{progress.step:08d}"
    if _exists(folder) and _last(folder) == folder / name:
        return folder / name  # the same step again; the folder that LAST names is never touched
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
        shutil.rmtree(folder / name, ignore_errors=True)  # left by a run that died before it moved LAST
        os.replace(temporary, folder / name)
        files.sync(folder)
        files.write_text(folder / LAST, name + "\n")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_older(folder, name)
    return folder / name


def restore(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Progress | None:
    """Loads the newest checkpoint into `model` and `optimizer` (both built); None if there is none.

    Raises:
      CheckpointError: a file is missing, its checksum is wrong, or it belongs to another model or optimizer.
    """
    if not _exists(folder):
        return None
    path = _last(folder)
    remedy = f"write the name of another step-... folder into {folder / LAST}, or delete {folder} to start anew"
    for file in (WEIGHTS, TRAINING, STATE):
        if not (path / file).is_file():
            raise CheckpointError(f"{path / file} is missing; {remedy}")
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path / STATE} is damaged: {error}; {remedy}") from error
    for file, expected in state.pop("sha256").items():
        if files.sha256(path / file) != expected:
            raise CheckpointError(f"{path / file} is damaged: its SHA-256 is not the one in {STATE}; {remedy}")
    variables = _training_state(model, optimizer)
    with np.load(path / TRAINING, allow_pickle=False) as stored:
        values = [stored[key] for key in sorted(stored.files)]
    if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
        raise CheckpointError(
            f"{path / TRAINING} belongs to another model or optimizer ({len(values)} variables); {remedy}"
        )
    model.load_weights(path / WEIGHTS)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return Progress(**state)


def save_final(path: Path, model: keras.Model) -> None:
    """Writes the weights of a finished model, whole or not at all. path: ends in .weights.h5."""
    with files.replacing(path) as temporary:
        model.save_weights(temporary)


@contextlib.contextmanager
def averaged(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Inside, `model` has the optimizer's moving averages for weights, if it keeps them; the same bits come back after.

    (keras.callbacks.SwapEMAWeights swaps by adding and subtracting, which rounds.)
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
    """What a step reads besides the weights: the optimizer's variables and the seeds of dropout."""
    weights = {id(w) for w in model.weights}
    return [*optimizer.variables, *(v for v in model.variables if id(v) not in weights)]


def _remove_older(folder: Path, newest: str) -> None:
    names = sorted(p.name for p in folder.glob("step-*"))
    for name in names[: names.index(newest)][: 1 - KEPT]:
        shutil.rmtree(folder / name, ignore_errors=True)
    for left_over in folder.glob(".step-*"):
        shutil.rmtree(left_over, ignore_errors=True)
