"""Layout and identity of a run's folder.

RUN/run.json        config and hashes of the data
RUN/fold0/          history.csv, checkpoints/; model.weights.h5, its .sha256 and oof.csv once the fold is finished
RUN/oof.csv         out-of-fold predictions of all finished folds
RUN/metrics.json    written by melanoma_tf.train and melanoma_tf.evaluate
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import pandas as pd

from melanoma_tf.core import files
from melanoma_tf.core.config import restore
from tfrecord_tools.core import lock, text

RUN, OOF, WEIGHTS, HISTORY, METRICS = "run.json", "oof.csv", "model.weights.h5", "history.csv", "metrics.json"
_FOLD = re.compile("fold[0-9]+")


class RunDirError(ValueError):
    """A folder is no run, or belongs to another one."""


@dataclasses.dataclass(frozen=True)
class RunDir:
    """A run's folder, config and data.

    Attributes:
      path: the folder.
      config: see configs/default.py.
      evaluation_data: `data_sha256` of the builds whose folds are held out in turn.
      training_data: `data_sha256` of the builds that only train.
    """

    path: Path
    config: ml_collections.ConfigDict
    evaluation_data: tuple[str, ...]
    training_data: tuple[str, ...] = ()

    def fold(self, fold: int) -> Path:
        """Returns the folder of a fold."""
        return self.path / f"fold{fold}"

    def finished_folds(self) -> list[int]:
        """Returns the folds with final weights and predictions, ascending."""
        names = (path.parent.name.removeprefix("fold") for path in self.path.glob(f"fold*/{OOF}"))
        return sorted(int(name) for name in names if name.isdecimal())

    def finish(self, fold: int, predictions: pd.DataFrame) -> None:
        """Marks a fold as finished by writing its predictions, and updates those of the run."""
        files.write_csv(self.fold(fold) / OOF, predictions)
        tables = [read_predictions(self.fold(f) / OOF) for f in self.finished_folds()]
        files.write_csv(self.path / OOF, pd.concat(tables, ignore_index=True))


def lock_until_exit(path: Path) -> None:
    """Makes a run's folder, locks it until this process ends, and removes temporary files of runs that were killed.

    Raises:
      RunDirError: another run is writing there.
    """
    from melanoma_tf.training import checkpoint  # starts Keras, which evaluate does without

    path.mkdir(parents=True, exist_ok=True)
    held = contextlib.ExitStack()
    try:
        held.enter_context(lock.locked(path))
    except lock.LockedError as error:
        raise RunDirError(
            f"--workdir {path}: another run is writing there ({error}); wait for it, or pass another --workdir"
        ) from None
    atexit.register(held.close)
    files.remove_temporary(path, f"{re.escape(RUN)}|{re.escape(OOF)}")
    for fold in _fold_folders(path):
        files.remove_temporary(fold, ".+")
        checkpoint.remove_temporary(fold / "checkpoints")


def claim(
    path: Path,
    config: ml_collections.ConfigDict,
    evaluation_data: Sequence[str],
    training_data: Sequence[str] = (),
    *,
    overwrite: bool,
) -> RunDir:
    """Creates a run's folder, or opens it to resume the same run.

    Args:
      path: the folder.
      config: see configs/default.py.
      evaluation_data: folders of the builds whose folds are held out in turn.
      training_data: folders of the builds that only train.
      overwrite: whether to remove an earlier run.

    Raises:
      RunDirError: the folder holds a run with another config or other data, or files that belong to no run.
    """
    workdir = RunDir(path, config, tuple(map(data_sha256, evaluation_data)), tuple(map(data_sha256, training_data)))
    if (path / RUN).is_file():
        if overwrite:
            _remove(path)
        elif any(path.glob("fold*/checkpoints/LAST")) or any(path.glob(f"fold*/{OOF}")):
            _check_same(open_workdir(path), workdir)
            return workdir
        # A run without any checkpoint has nothing to resume and nothing to lose.
    elif path.exists() and any(entry.name != lock.NOTE for entry in path.iterdir()):
        raise RunDirError(f"--workdir {path} is not empty and holds no run; pass an empty or a new folder")
    path.mkdir(parents=True, exist_ok=True)
    run = {
        "config": config.to_dict(),
        "data_sha256": workdir.evaluation_data,
        "external_sha256": workdir.training_data,
    }
    files.write_text(path / RUN, json.dumps(run, indent=1, sort_keys=True) + "\n")
    return workdir


def open_workdir(path: Path) -> RunDir:
    """Opens the folder of an existing run.

    Raises:
      RunDirError: the folder holds no run.
      ValueError: its config has a setting that this version does not know.
    """
    if not (path / RUN).is_file():
        raise RunDirError(f"{path} has no {RUN}; pass the --workdir of melanoma_tf.train")
    run = json.loads((path / RUN).read_text(encoding="utf-8"))
    config = restore(run["config"], path / RUN)
    return RunDir(path, config, tuple(run["data_sha256"]), tuple(run["external_sha256"]))


def read_predictions(path: Path) -> pd.DataFrame:
    """Reads an oof.csv. Names such as 007 and NA are kept as text; an unknown patient is NaN."""
    texts = dict.fromkeys(("image_name", "patient_id", "source"), str)
    missing = {column: [""] for column in ("patient_id", "logit", "probability")}
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=missing)
    return table.assign(**{name: table[name].map(text.from_cell) for name in texts if name in table})


def _fold_folders(path: Path) -> list[Path]:
    return [folder for folder in path.glob("fold*") if _FOLD.fullmatch(folder.name) and folder.is_dir()]


def _remove(path: Path) -> None:
    """Removes the files that a run writes; all others in the folder are the user's."""
    for folder in _fold_folders(path):
        if folder.is_symlink():
            raise RunDirError(f"{folder} is a link; remove it yourself, or pass another --workdir")
        shutil.rmtree(folder)
    for name in (OOF, METRICS, RUN):  # RUN last, so that an interrupted removal can be repeated
        (path / name).unlink(missing_ok=True)


def data_sha256(data_path: str) -> str:
    """Returns the SHA-256 of a build's manifest, which identifies the build. data_path: folder or URL such as gs://."""
    import tensorflow as tf

    with tf.io.gfile.GFile(os.path.join(data_path, "manifest.json"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _check_same(before: RunDir, now: RunDir) -> None:
    old, new = before.config.to_dict(), now.config.to_dict()
    new.pop("tpu")  # how fast, not what is computed
    differing: list[Any] = [f"{k}: {old.get(k)!r} then, {new[k]!r} now" for k in new if old.get(k) != new[k]]
    if (before.evaluation_data, before.training_data) != (now.evaluation_data, now.training_data):
        differing.append("the data set")
    if differing:
        raise RunDirError(
            f"--workdir {now.path} holds a run that differs in {'; '.join(differing)}. "
            "Use the same settings to resume it, another --workdir, or --overwrite."
        )
