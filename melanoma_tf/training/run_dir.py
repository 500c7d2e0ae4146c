"""Layout and identity of a run's folder.

RUN/run.json        config, hashes of the data, and when and with what each session trained
RUN/fold0/          history.csv, checkpoints/; model.weights.h5, its .sha256 and oof.csv once the fold is finished;
                    best.weights.h5 with config.patience; with --log trackers.json, tensorboard/ and wandb/
RUN/oof.csv         out-of-fold predictions of all finished folds
RUN/metrics.json, report.html, ...    written by melanoma_tf.train and melanoma_tf.evaluate
RUN/calibration.json    calibrator and operating point of these predictions, for melanoma_tf.predict
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections

from melanoma_tf.core import files
from melanoma_tf.core.config import restore
from melanoma_tf.training import stages
from tfrecord_tools.core import json_file, lock, paths, text
from tfrecord_tools.records.manifest import MANIFEST

if TYPE_CHECKING:
    import pandas as pd

RUN, OOF, WEIGHTS, HISTORY, METRICS = "run.json", "oof.csv", "model.weights.h5", "history.csv", "metrics.json"
CALIBRATION = "calibration.json"
BEST = "best.weights.h5"  # of the epochs so far, with config.patience
REPORTS = ("report.html", "model_card.md", "tripod_ai.md")
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
      epochs_before: earlier values of config.epochs, ascending, if the run was extended.
      sources: of each fold, if the folds are the sources of the records and not those of the builds.
    """

    path: Path
    config: ml_collections.ConfigDict
    evaluation_data: tuple[str, ...]
    training_data: tuple[str, ...] = ()
    epochs_before: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()

    def fold(self, fold: int) -> Path:
        """Returns the folder of a fold."""
        return self.path / f"fold{fold}"

    def finished_folds(self) -> list[int]:
        """Returns the folds with final weights and predictions, ascending."""
        names = (path.parent.name.removeprefix("fold") for path in self.path.glob(f"fold*/{OOF}"))
        return sorted(int(name) for name in names if name.isdecimal())

    def has_checkpoint(self, fold: int) -> bool:
        """Whether a fold has a checkpoint to resume from."""
        return (self.fold(fold) / "checkpoints" / "LAST").is_file()

    def is_trained(self, fold: int) -> bool:
        """Whether a fold is finished, and with all epochs of an extended run or until it was stopped."""
        if fold not in self.finished_folds():
            return False
        history = _history(self.fold(fold)) if self.epochs_before else []
        last = max((int(row["epoch"]) for row in history), default=0)
        return not self.epochs_before or last >= self.config.epochs or stages.is_stopped(self.config, history)

    def reopen(self, fold: int) -> None:
        """Marks a fold as unfinished, because it goes on."""
        (self.fold(fold) / OOF).unlink(missing_ok=True)

    def record(self, session: dict[str, Any]) -> None:
        """Adds to run.json when and with what a session trains; see `provenance.session`."""
        content = _read_run(self.path / RUN)
        sessions = content.get("sessions")
        content["sessions"] = [*(sessions if isinstance(sessions, list) else []), session]
        _write_run(self.path, content)

    def record_seconds(self, fold: int, seconds: float) -> None:
        """Adds to the last session in run.json how long it trained a fold, from its start or where it resumed."""
        content = _read_run(self.path / RUN)
        content["sessions"][-1].setdefault("seconds", {})[f"fold{fold}"] = round(seconds, 1)
        _write_run(self.path, content)

    def finish(self, fold: int, predictions: pd.DataFrame) -> None:
        """Marks a fold as finished by writing its predictions, and updates those of the run."""
        import pandas as pd

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
    files.remove_temporary(path, "|".join(map(re.escape, (RUN, OOF, METRICS, CALIBRATION, *REPORTS))))
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
    sources: Sequence[str] = (),
) -> RunDir:
    """Creates a run's folder, or opens it to resume the same run, or to extend it if config.epochs was raised.

    Args:
      path: the folder.
      config: see configs/default.py.
      evaluation_data: folders of the builds whose folds are held out in turn.
      training_data: folders of the builds that only train, and files that change their labels.
      overwrite: whether to remove an earlier run.
      sources: of each fold, see `RunDir`.

    Raises:
      RunDirError: the folder holds a run with another config or other data, or files that belong to no run.
    """
    run, before = check(path, config, evaluation_data, training_data, overwrite=overwrite, sources=sources)
    content: dict[str, Any] = {}
    if before:
        if run.epochs_before == before.epochs_before:
            return run
        content = _read_run(path / RUN)
    elif overwrite:
        _remove(path)
    path.mkdir(parents=True, exist_ok=True)
    content |= {
        "config": config.to_dict(),
        "data_sha256": run.evaluation_data,
        "external_sha256": run.training_data,
        "epochs_before": run.epochs_before,
        "sources": run.sources,
    }
    _write_run(path, content)
    return run


def check(
    path: Path,
    config: ml_collections.ConfigDict,
    evaluation_data: Sequence[str],
    training_data: Sequence[str] = (),
    *,
    overwrite: bool,
    sources: Sequence[str] | None = (),
) -> tuple[RunDir, RunDir | None]:
    """Checks what `claim` would do, and changes nothing; sources: None where they are not known yet.

    Returns:
      The run, and the run that it resumes or extends.

    Raises:
      RunDirError: as `claim`.
    """
    run = RunDir(path, config, tuple(map(data_sha256, evaluation_data)), tuple(map(data_sha256, training_data)))
    run = dataclasses.replace(run, sources=tuple(sources or ()))
    if (path / RUN).is_file():
        # A run without any checkpoint has nothing to resume and nothing to lose.
        if not overwrite and (any(path.glob("fold*/checkpoints/LAST")) or any(path.glob(f"fold*/{OOF}"))):
            before = open_workdir(path)
            if sources is None:
                run = dataclasses.replace(run, sources=before.sources)
            return dataclasses.replace(run, epochs_before=_epochs_before(before, run)), before
    elif path.exists() and not path.is_dir():
        raise RunDirError(f"--workdir {path} is a file; pass a folder")
    elif path.exists() and any(entry.name != lock.NOTE for entry in path.iterdir()):
        raise RunDirError(f"--workdir {path} is not empty and holds no run; pass an empty or a new folder")
    return run, None


def open_workdir(path: Path) -> RunDir:
    """Opens the folder of an existing run.

    Raises:
      RunDirError: the folder holds no run, or its run.json is damaged.
      ValueError: its config has a setting that this version does not know, or a value that is not allowed.
    """
    if not (path / RUN).is_file():
        raise RunDirError(f"{path} has no {RUN}; pass the --workdir of melanoma_tf.train")
    run = _read_run(path / RUN)
    config = restore(run["config"], path / RUN)
    evaluation_data, training_data, epochs = run["data_sha256"], run["external_sha256"], run.get("epochs_before", [])
    return RunDir(path, config, tuple(evaluation_data), tuple(training_data), tuple(epochs), tuple(run["sources"]))


def _read_run(file: Path) -> dict[str, Any]:
    """Reads a run.json. Raises RunDirError if it is not of the form that `claim` writes."""
    try:
        run = json_file.read(file)
    except ValueError as error:  # also text that is not UTF-8
        raise _damaged(file, f"not JSON: {error}") from error
    if not isinstance(run, dict):
        raise _damaged(file, f"got a {type(run).__name__}, expected an object")
    if not isinstance(run.get("config"), dict):
        raise _damaged(file, "config: expected the settings by name")
    for key in ("data_sha256", "external_sha256"):
        hashes = run.get(key)
        if not (isinstance(hashes, list) and all(isinstance(each, str) for each in hashes)):
            raise _damaged(file, f"{key}: expected a list of SHA-256")
    sources = run.setdefault("sources", [])
    if not (isinstance(sources, list) and all(isinstance(each, str) for each in sources)):
        raise _damaged(file, "sources: expected a list of texts")
    epochs = run.get("epochs_before", [])
    if not (isinstance(epochs, list) and all(type(each) is int and each > 0 for each in epochs)):
        raise _damaged(file, "epochs_before: expected a list of whole numbers")
    return run


def _write_run(path: Path, content: dict[str, Any]) -> None:
    files.write_text(path / RUN, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _damaged(file: Path, why: str) -> RunDirError:
    return RunDirError(f"{file} is damaged: {why}; restore it from a copy, or train again with --overwrite")


def read_predictions(path: Path) -> pd.DataFrame:
    """Reads an oof.csv. Names such as 007 and NA are kept as text; an unknown patient is NaN."""
    import pandas as pd  # here, because commands check their flags before they import what takes long

    texts = dict.fromkeys(("image_name", "patient_id", "source"), str)
    known = (
        "sex",
        "age_approx",
        "anatom_site_general_challenge",
        "diagnosis",
        "width",
        "height",
    )  # not in runs of earlier versions
    missing = {column: [""] for column in ("patient_id", "logit", "probability", *known)}
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
    for name in (OOF, METRICS, CALIBRATION, *REPORTS, RUN):  # RUN last, so that an interrupted removal can be repeated
        (path / name).unlink(missing_ok=True)


def data_sha256(data_path: str) -> str:
    """Returns the SHA-256 of a build's manifest, which identifies the build, or of a file.

    Args:
      data_path: folder or URL such as gs://, or a file.
    """
    if Path(data_path).is_file():
        return files.sha256(Path(data_path))
    return hashlib.sha256((paths.path(data_path) / MANIFEST).read_bytes()).hexdigest()


def _epochs_before(before: RunDir, now: RunDir) -> tuple[int, ...]:
    """The earlier values of config.epochs of the run that goes on. Raises RunDirError if it is another run."""
    old = before.config.epochs
    if now.config.epochs <= old:
        _check_same(before, now)
        return before.epochs_before
    extended = before.config.copy_and_resolve_references()
    extended.epochs = now.config.epochs
    _check_same(dataclasses.replace(before, config=extended), now)
    for folder in _fold_folders(now.path):
        if (folder / OOF).is_file() and not (folder / "checkpoints/LAST").is_file():
            raise RunDirError(
                f"{folder} was trained for {old} epochs and has no checkpoint from which to go on to "
                f"{now.config.epochs}; start another --workdir from its weights, with "
                f"--config.weights={folder / WEIGHTS}"
            )
    return (*before.epochs_before, old)


def _history(folder: Path) -> list[dict[str, float]]:
    """The rows of a fold's history; none if they cannot be read."""
    try:
        with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
            return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):
        return []


def _check_same(before: RunDir, now: RunDir) -> None:
    old, new = before.config.to_dict(), now.config.to_dict()
    new.pop("tpu")  # how fast, not what is computed
    differing: list[Any] = [f"{k}: {old.get(k)!r} then, {new[k]!r} now" for k in new if old.get(k) != new[k]]
    if (before.evaluation_data, before.training_data) != (now.evaluation_data, now.training_data):
        differing.append("the data set")
    if before.sources != now.sources:
        differing.append(
            f"--hold_out_source: {', '.join(before.sources) or 'no'} then, {', '.join(now.sources) or 'no'} now"
        )
    if differing:
        raise RunDirError(
            f"--workdir {now.path} holds a run that differs in {'; '.join(differing)}. "
            "Use the same settings to resume it, another --workdir, or --overwrite."
        )
