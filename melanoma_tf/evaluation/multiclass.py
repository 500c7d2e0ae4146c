"""Models of several diagnoses: balanced accuracy, and the AUC of each class against the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma_tf.evaluation import intervals, metrics, predictions, progress
from melanoma_tf.evaluation.predictions import PredictionsError
from tfrecord_tools.core import text

PREFIX = "prediction_"


@dataclasses.dataclass(frozen=True)
class Classified:
    """Predictions of several classes.

    Attributes:
      names: K classes, in the order of the file's columns.
      images: [N], names.
      patients: [N], an image of an unknown patient is one of its own.
      diagnosis: [N], index of the true class.
      scores: [N,K], larger means more likely.
      patients_known: whether any patient is known.
    """

    names: tuple[str, ...]
    images: NDArray[np.object_]
    patients: NDArray[np.object_]
    diagnosis: NDArray[np.int64]
    scores: NDArray[np.float64]
    patients_known: bool


def has_classes(path: Path) -> bool:
    """Whether a CSV has a column of predictions for each of several classes, and none of melanoma alone."""
    table = predictions.read_metadata(path)
    return len(_columns(table)) > 1 and not {"logit", "prediction"} & set(table)


def of_run(path: Path) -> Classified | None:
    """The diagnoses that a run predicted beside its target; None if it predicts none, or fewer than two occur.

    Classes that no image is of are left out, and so are images whose diagnosis is not known.

    Args:
      path: the run's oof.csv.

    Raises:
      PredictionsError: see `read`.
    """
    table = predictions.read_metadata(path)
    if not _columns(table):
        return None
    known = table[table["diagnosis"].notna()]
    occurring = set(known["diagnosis"])
    if len(occurring) < 2:
        return None
    absent = [name for name in _columns(table) if name.removeprefix(PREFIX) not in occurring]
    return _classified(known.drop(columns=absent).reset_index(drop=True), str(path))


def _columns(table: pd.DataFrame) -> list[str]:
    return [name for name in map(str, table.columns) if name.startswith(PREFIX)]


def read(path: Path, metadata: Path | None = None) -> Classified:
    """Reads predictions of several classes.

    Args:
      path: CSV with image_name, `prediction_X` for each class X, and diagnosis, a class; patient_id if known.
      metadata: CSV with diagnosis or patient_id by image_name.

    Raises:
      PredictionsError: a column is absent, a value missing or strange, a name there twice.
    """
    table = predictions.read_metadata(path)
    if metadata is not None:
        table = _joined(table, predictions.read_metadata(metadata), str(path), str(metadata))
    missing = [name for name in ("image_name", "diagnosis") if name not in table]
    if missing:
        raise PredictionsError(
            f"{path} has no column {', '.join(missing)}; expected image_name, patient_id, diagnosis and {PREFIX}X for "
            f"each class X, got {', '.join(table.columns)}"
        )
    return _classified(table, str(path))


def _classified(table: pd.DataFrame, path: str) -> Classified:
    columns = _columns(table)
    names = tuple(column.removeprefix(PREFIX) for column in columns)
    strange = table[~table["diagnosis"].isin(names)]
    if len(strange):
        raise PredictionsError(
            f"{path}: diagnosis {strange['diagnosis'].iloc[0]!r} of {strange['image_name'].iloc[0]!r} and of "
            f"{len(strange) - 1:,} more images; expected one of: {', '.join(names)}"
        )
    diagnosis = np.array([names.index(each) for each in table["diagnosis"]])
    scores = np.empty((len(table), len(names)))
    for k, column in enumerate(columns):
        # The checks of binary predictions, for each class.
        own = table[["image_name", *({"patient_id"} & set(table))]]
        checked = predictions.check(own.assign(target=diagnosis == k, logit=table[column]), f"{path}, {column}")
        scores[:, k] = checked["logit"]
    return Classified(
        names,
        checked["image_name"].to_numpy(),
        predictions.patients(checked).to_numpy(),
        diagnosis,
        scores,
        bool(checked["patient_id"].notna().any()),
    )


def _joined(table: pd.DataFrame, metadata: pd.DataFrame, path: str, origin: str) -> pd.DataFrame:
    for each, name in ((table, path), (metadata, origin)):
        if "image_name" not in each:
            raise PredictionsError(f"{name} has no column image_name; got {', '.join(each.columns)}")
    new = [name for name in ("diagnosis", "patient_id") if name in metadata and name not in table]
    twice = metadata["image_name"].duplicated() & metadata["image_name"].isin(table["image_name"])
    if twice.any():
        raise PredictionsError(f"{origin}: two rows for {metadata['image_name'][twice].iloc[0]!r}")
    return table.merge(metadata[["image_name", *new]], how="left", on="image_name")


def analyze(found: Classified, replicates: int = 2000) -> dict[str, Any]:
    """Computes the contents of metrics.json.

    Args:
      found: see `read`.
      replicates: resamples of patients of each interval.

    Returns:
      Balanced accuracy (the mean recall of the classes that occur, of the highest score), and of each class its
      images, recall and AUC against the rest; counts of predicted (columns) by true class (rows).

    Raises:
      metrics.UndefinedMetricError: only one class occurs.
    """
    guess = found.scores.argmax(axis=1)
    confusion = np.zeros((len(found.names), len(found.names)), int)
    np.add.at(confusion, (found.diagnosis, guess), 1)
    present = np.flatnonzero(confusion.sum(axis=1))
    if len(present) < 2:
        raise metrics.UndefinedMetricError("balanced accuracy needs images of two classes; got one")
    own = {k: found.diagnosis == k for k in present}
    recalls = {k: intervals.ratio(own[k] & (guess == k), own[k]) for k in present}
    rankings = {k: metrics.Ranking(own[k], found.scores[:, k]) for k in present}

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        balanced = np.mean([recall(weights) for recall in recalls.values()], axis=0)
        aucs = {f"auc {k}": metrics.area(ranking.curve(weights)) for k, ranking in rankings.items()}
        return {"balanced_accuracy": balanced, **aucs}

    drawn = intervals.bootstrap(statistics, found.patients, replicates=replicates)
    figures = {name: dataclasses.asdict(intervals.percentile(values)) for name, values in drawn.items()}
    parts = {f"recall {k}": (own[k] & (guess == k), own[k]) for k in present}
    rates = intervals.rates(parts, found.patients, replicates=replicates)
    figures |= {name: dataclasses.asdict(rate) for name, rate in rates.items()}
    absent = ", ".join(name for k, name in enumerate(found.names) if k not in present)
    return {
        "images": len(found.images),
        "patients": len(np.unique(found.patients)),
        "patients_known": found.patients_known,
        "replicates": replicates,
        "warnings": [f"no image is of {absent}: balanced accuracy is of the other classes"] * bool(absent),
        "balanced_accuracy": figures["balanced_accuracy"],
        "classes": {
            found.names[k]: {"images": int(own[k].sum()), "recall": figures[f"recall {k}"], "auc": figures[f"auc {k}"]}
            for k in present
        },
        "confusion": {name: confusion[k].tolist() for k, name in enumerate(found.names)},
    }


def analyze_run(path: Path, replicates: int, shown: progress.Shown) -> dict[str, Any] | None:
    """Figures of the diagnoses that a run predicts beside its target, see `analyze`; None where `of_run` has none."""
    found = of_run(path)
    if found is None:
        return None
    shown.part("diagnoses")
    with intervals.watched(shown.resampled):
        return analyze(found, replicates)


def summary(results: Mapping[str, Any]) -> list[str]:
    """Returns the main figures of `analyze` as lines."""

    def shown(found: Mapping[str, Any]) -> str:
        low, high = (np.nan if found[end] is None else found[end] for end in ("low", "high"))
        return str(intervals.Interval(found["value"], low, high, found["level"]))

    lines = [f"warning: {warning}" for warning in results["warnings"]]
    lines.append(f"balanced accuracy {shown(results['balanced_accuracy'])}")
    for name, each in results["classes"].items():
        figures = f"recall {each['recall']['value']:.4f}, AUC {shown(each['auc'])}"
        lines.append(f"{text.shown(name)}: {each['images']:,} images, {figures}")
    return lines
