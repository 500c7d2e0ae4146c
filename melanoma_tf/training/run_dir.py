"""The folder of a run: what lies where, and which run it belongs to.

RUN/run.json        config and data set of this run
RUN/fold0/          history.csv, checkpoints/, model.weights.h5, oof.csv (these two once the fold is finished)
RUN/oof.csv         the finished folds' out-of-fold predictions together
RUN/metrics.json    written by evaluate
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import pandas as pd

from melanoma_tf.core import config as configs
from melanoma_tf.core import files

RUN, OOF, WEIGHTS, HISTORY, METRICS = "run.json", "oof.csv", "model.weights.h5", "history.csv", "metrics.json"


class RunDirError(ValueError):
    """The folder cannot serve this run; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class RunDir:
    """A run's folder, its config and what identifies its data, see `data_sha256`.

    judged: builds whose folds are held out in turn. trained: builds that only train.
    """

    path: Path
    config: ml_collections.ConfigDict
    judged: tuple[str, ...]
    trained: tuple[str, ...] = ()

    def fold(self, fold: int) -> Path:
        """The folder of one fold."""
        return self.path / f"fold{fold}"

    def finished_folds(self) -> list[int]:
        """Folds with final weights and predictions, ascending."""
        names = (path.parent.name.removeprefix("fold") for path in self.path.glob(f"fold*/{OOF}"))
        return sorted(int(name) for name in names if name.isdecimal())

    def finish(self, fold: int, predictions: pd.DataFrame) -> None:
        """Writes a fold's predictions, which marks it as finished, and the run's together."""
        files.write_text(self.fold(fold) / OOF, predictions.to_csv(index=False))
        tables = [read_predictions(self.fold(f) / OOF) for f in self.finished_folds()]
        files.write_text(self.path / OOF, pd.concat(tables).to_csv(index=False))


def claim(
    path: Path,
    config: ml_collections.ConfigDict,
    judged: Sequence[str],
    trained: Sequence[str] = (),
    *,
    overwrite: bool,
) -> RunDir:
    """The folder for a run: new, or that of the same run begun before. judged, trained: folders, see `RunDir`.

    Raises:
      RunDirError: it holds a run with another config or data set, or files that are no run's.
    """
    workdir = RunDir(path, config, tuple(map(data_sha256, judged)), tuple(map(data_sha256, trained)))
    if (path / RUN).is_file():
        if overwrite:
            _remove(path)
        elif any(path.glob("fold*/checkpoints/LAST")) or any(path.glob(f"fold*/{OOF}")):
            _check_same(open_workdir(path), workdir)
            return workdir
        # else it never came to a first checkpoint, so there is nothing to go on with and nothing to lose
    elif path.exists() and any(path.iterdir()):
        raise RunDirError(f"--workdir {path} is not empty and holds no run; name an empty or a new folder")
    path.mkdir(parents=True, exist_ok=True)
    run = {"config": config.to_dict(), "data_sha256": workdir.judged, "external_sha256": workdir.trained}
    files.write_text(path / RUN, json.dumps(run, indent=1, sort_keys=True) + "\n")
    return workdir


def open_workdir(path: Path) -> RunDir:
    """The folder of a run that exists.

    Raises:
      RunDirError: there is no run.
    """
    if not (path / RUN).is_file():
        raise RunDirError(f"{path} holds no {RUN}; --workdir wants the folder that melanoma_tf.train wrote")
    run = json.loads((path / RUN).read_text(encoding="utf-8"))
    config = configs.restore(run["config"], path / RUN)
    return RunDir(path, config, tuple(run["data_sha256"]), tuple(run["external_sha256"]))


def read_predictions(path: Path) -> pd.DataFrame:
    """An oof.csv. Names stay as they are, 007 and NA too; a patient that is not known is NaN."""
    texts = dict.fromkeys(("image_name", "patient_id", "source"), str)
    missing = {column: [""] for column in ("patient_id", "logit", "probability")}
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=missing)


def _remove(path: Path) -> None:
    """What a run wrote; whatever else lies in the folder is the user's."""
    for folder in path.glob("fold[0-9]*"):
        shutil.rmtree(folder)
    for name in (OOF, METRICS, RUN):  # RUN last: a killed removal can be repeated
        (path / name).unlink(missing_ok=True)


def data_sha256(data_path: str) -> str:
    """What identifies a build: the hash of its manifest."""
    import tensorflow as tf  # which knows gs:// too

    with tf.io.gfile.GFile(os.path.join(data_path, "manifest.json"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _check_same(before: RunDir, now: RunDir) -> None:
    then, asked = before.config.to_dict(), now.config.to_dict()
    differing: list[Any] = [
        f"{k}: {then.get(k)!r} then, {asked.get(k)!r} now" for k in asked if then.get(k) != asked[k]
    ]
    if (before.judged, before.trained) != (now.judged, now.trained):
        differing.append("the data set")
    if differing:
        raise RunDirError(
            f"--workdir {now.path} holds a run that differs in {'; '.join(differing)}. "
            "Use the same settings to go on with it, another --workdir, or --overwrite."
        )
