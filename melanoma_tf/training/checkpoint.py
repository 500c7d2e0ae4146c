"""Atomic checkpoints: a new folder for each, with checksums, and a `LAST` file that names the newest complete one.

checkpoints/step-00001234/  model.weights.h5   weights being trained
                            training.npz       optimizer (moments, moving averages, step), dropout seeds
                            state.json         step, history, SHA-256 of the other two files
checkpoints/LAST            name of the newest complete folder

The final weights are model.weights.h5 with their SHA-256 in model.weights.h5.sha256, as `sha256sum` writes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melanoma_tf.core import cli, files, hdf5, keras_compat
from tfrecord_tools.core import json_file, paths
from tfrecord_tools.core.text import counted, verb

KEPT = 2  # the newest, and its predecessor in case the newest is unreadable
WEIGHTS, TRAINING, STATE, LAST = "model.weights.h5", "training.npz", "state.json", "LAST"
_OVERHEAD = 1 << 13  # bytes of a file per array, at most
_NAME = re.compile("step-([0-9]{8,})")
_LEFT_OVER = re.compile(r"\.step-[0-9]{8,}\.[0-9]+")
_SHA256 = re.compile("[0-9a-f]{64}")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or must not be written."""


@dataclasses.dataclass
class Progress:
    """Progress of a run.

    Attributes:
      step: steps, one a batch, over all epochs, including skipped ones.
      steps_taken: steps with finite gradients at the last check; -1 before the first.
      taken_before: those of optimizers of earlier stages.
      streams: parallel streams that make up an epoch's order, see `pipeline.streams`; 0 before training.
      loss: mean over the steps of the epoch so far.
      history: one row per finished epoch.
    """

    step: int = 0
    steps_taken: int = -1
    taken_before: int = 0
    streams: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def newest(folder: Path) -> list[str]:
    """Returns the paths, relative to `folder`, of the files that `restore` would load; empty without a checkpoint.

    Raises:
      CheckpointError: LAST names no checkpoint.
    """
    if not _exists(folder):
        return []
    last = _last(folder)
    return [LAST, *(f"{last.name}/{file}" for file in (WEIGHTS, TRAINING, STATE) if (last / file).is_file())]


def step_of(saved: Sequence[str]) -> int:
    """The step of the checkpoint whose files `newest` names; 0 without one."""
    return next((int(match[1]) for match in map(_NAME.match, saved) if match), 0)


def save(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, progress: Progress) -> Path:
    """Writes a checkpoint, points LAST at it and removes all but the newest KEPT.

    Returns:
      The checkpoint's folder.

    Raises:
      CheckpointError: a weight or a moment of the optimizer is not finite, or e.g. no space is left; LAST still names
        the previous checkpoint.
    """
    state = training_state(model, optimizer)
    _check_finite([*model.weights, *state], f"no checkpoint saved at step {progress.step}")
    name = _folder_name(progress.step)
    if _exists(folder) and _last(folder) == folder / name:
        return folder / name  # saved already; the folder that LAST names is never replaced
    with _explaining(folder, f"checkpoint of step {progress.step}"):
        _write(folder, name, model, state, progress)
        _remove_older(folder, name)
    return folder / name


def _write(folder: Path, name: str, model: keras.Model, state: list[Any], progress: Progress) -> None:
    """Writes a checkpoint to folder/name and points LAST at it."""
    temporary = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _check_space(folder, [*model.weights, *state])
        model.save_weights(temporary / WEIGHTS)
        values = {f"{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(state)}
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


def _check_space(folder: Path, variables: Iterable[Any]) -> None:
    """Raises OSError unless the disk has room: HDF5 that fills a disk ends the process with a segmentation fault."""
    size = sum(_OVERHEAD + math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:  # counts quotas, which the free space of a disk leaves out
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _explaining(checkpoints: Path, what: str) -> Iterator[None]:
    """Turns the OSError of a save, such as that of a full disk, into a CheckpointError that says how to go on."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).splitlines()[0]
        if _exists(checkpoints):
            remedy = (
                f"the last good checkpoint is {_last(checkpoints)}; make room, and the same command goes on from it"
            )
        else:
            remedy = f"there is no checkpoint in {checkpoints} yet; make room, and start again"
        raise CheckpointError(f"the {what} cannot be saved: {why}; {remedy}") from error


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
    try:
        return _load(path, model, optimizer)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{error}; {_remedy(folder)}") from error


def _load(path: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Progress:
    """Loads a checkpoint; nothing is assigned unless all of it is as it was saved."""
    for file in (WEIGHTS, TRAINING, STATE):
        if not paths.member(path, file, re.escape(file)).is_file():
            raise ValueError(f"{path / file} is missing")
    progress, sums = _read_state(path)
    for file, expected in sums.items():
        if files.sha256(path / file) != expected:
            raise ValueError(f"{path / file} is damaged: its SHA-256 differs from the one in {STATE}")
    variables = training_state(model, optimizer)
    values = _read_arrays(path / TRAINING, [tuple(variable.shape) for variable in variables])
    _load_weights(path / WEIGHTS, model)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return progress


def _read_state(path: Path) -> tuple[Progress, dict[str, str]]:
    """Returns the progress of a checkpoint, and the SHA-256 of its files by name."""
    file = path / STATE
    try:
        state = json_file.read(file)
        sums = state.pop("sha256")
        progress = Progress(**state)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    good = isinstance(sums, dict) and sums.keys() == {WEIGHTS, TRAINING}
    if not good or not all(isinstance(each, str) and _SHA256.fullmatch(each) for each in sums.values()):
        raise ValueError(f"{file} is damaged: sha256: {str(sums)[:200]}; expected that of {WEIGHTS} and {TRAINING}")
    for key, least in (("step", 0), ("streams", 0), ("steps_taken", -1), ("taken_before", 0)):
        value = getattr(progress, key)
        if type(value) is not int or value < least:  # true is no step
            raise ValueError(f"{file} is damaged: {key}: {value!r}; expected a whole number from {least}")
    if path.name != _folder_name(progress.step):
        raise ValueError(f"{file} is damaged: step: {progress.step}; expected that of its folder, {path.name}")
    if not (isinstance(progress.loss, float | int) and isinstance(progress.history, list)):
        raise ValueError(f"{file} is damaged: expected loss as a number and history as a list")
    return progress, sums


def _read_arrays(path: Path, shapes: list[tuple[int, ...]]) -> list[Any]:
    """Returns the arrays of a .npz in order, which are read once their shapes are known to be as expected."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read[version](file)
                found.append(shape if dtype.itemsize <= 8 else dtype)
    if found != shapes:
        raise ValueError(
            f"{path} belongs to another model or optimizer: got {len(found)} variables, "
            f"expected {len(shapes)} of the same shapes"
        )
    with np.load(path, allow_pickle=False) as stored:
        return [stored[key] for key in sorted(stored.files)]


def _load_weights(path: Path, model: keras.Model) -> None:
    with hdf5.opened(path, hdf5.allowance(model.weights)):
        pass  # safe to read for Keras, which opens it itself
    model.load_weights(path)


def save_final(path: Path, model: keras.Model) -> None:
    """Writes the weights of a finished model atomically, and their SHA-256 beside them. path: ends in .weights.h5.

    Raises:
      CheckpointError: a weight is not finite, or e.g. no space is left; nothing is written.
    """
    _check_finite(model.weights, f"{path} not written")
    with _explaining(path.parent / "checkpoints", f"final weights {path}"):
        _check_space(path.parent, model.weights)
        # First, so that a kill leaves none rather than that of other weights.
        files.checksum_file(path).unlink(missing_ok=True)
        with files.replacing(path) as temporary:
            model.save_weights(temporary)
            digest = files.sha256(temporary)
        files.write_text(files.checksum_file(path), f"{digest}  {path.name}\n")


def load_final(path: Path, model: keras.Model) -> None:
    """Loads what `save_final` wrote. Weights without a SHA-256, as earlier versions left them, are warned of.

    Raises:
      CheckpointError: the weights are missing, were changed since, or are of another model.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; restore it, or train the fold again")
    if files.checksum_file(path).is_file():
        try:
            files.checked_sha256(path)
        except ValueError as error:
            raise CheckpointError(f"{error}, or train the fold again") from error
    else:
        _warn_unchecked(path.parent.parent)
    try:
        _load_weights(path, model)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error


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


def training_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the state of training besides the weights: optimizer variables and dropout seeds."""
    weights = {id(w) for w in model.weights}
    return [*optimizer.variables, *(v for v in model.variables if id(v) not in weights)]


def _exists(folder: Path) -> bool:
    return (folder / LAST).is_file()


def _last(folder: Path) -> Path:
    try:
        name = (folder / LAST).read_text(encoding="utf-8").strip()
        return folder / paths.member(folder, name, _NAME).name
    except ValueError as error:  # also text that is not UTF-8
        raise CheckpointError(f"{folder / LAST} is damaged: {error}; {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return f"write the name of another step-... folder into {folder / LAST}, or delete {folder} to start again"


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


@functools.cache  # once for all folds
def _warn_unchecked(run: Path) -> None:
    cli.say(f"warning: {run}: weights without a SHA-256 beside them, as earlier versions left them, are not checked")


def _check_finite(variables: Iterable[Any], problem: str) -> None:
    bad = [v.path for v in variables if not np.all(np.isfinite(keras.ops.convert_to_numpy(v)))]
    if bad:
        are = verb(len(bad), "is", "are")
        raise CheckpointError(f"{problem}: {counted(len(bad), 'variable')} {are} not finite, first {bad[0]}")


def _remove_older(folder: Path, newest: str) -> None:
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    names.sort(key=lambda name: int(name.removeprefix("step-")))
    for name in names[: names.index(newest)][: 1 - KEPT]:
        shutil.rmtree(folder / name, ignore_errors=True)
    remove_temporary(folder)


def remove_temporary(folder: Path) -> None:
    """Removes what saves that were killed left in a folder of checkpoints."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    files.remove_temporary(folder, LAST)
