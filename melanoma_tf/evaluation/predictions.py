"""Tables of predictions: read, checked, and joined with what is known of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from melanoma_tf.evaluation import calibration
from tfrecord_tools.core import text

# Columns of a checked table: image_name, patient_id (text or None), target, logit, probability (NaN for scores that are
# no probabilities), fold (-1 for all where there are none), source, and the METADATA that are known.
METADATA = ("sex", "age_approx", "anatom_site_general_challenge", "diagnosis", "width", "height")
NO_FOLD = -1
_OTHER_NAMES = {  # of other tables, by ours
    "image_name": ("image", "isic_id"),
    "patient_id": ("patient",),
    "anatom_site_general_challenge": ("anatom_site_general",),
    "prediction": ("probability", "pred"),
}
_TEXTS = ("image_name", "patient_id", "source", "sex", "anatom_site_general_challenge", "diagnosis")
_MISSING = {
    name: ["", "NA", "N/A", "nan", "NaN", "None", "null", "unknown"] for name in ("patient_id", "patient", *METADATA)
}
_SHOWN = 5  # names in an error


class PredictionsError(ValueError):
    """A table of predictions that cannot be evaluated; the message names file, rows and remedy."""


def read(path: Path, folds_from: str | None = None) -> pd.DataFrame:
    """Reads anybody's predictions.

    Args:
      path: CSV with image_name, target, and logit or prediction; patient_id, fold, source and metadata if there.
      folds_from: column with the fold of each image instead of `fold`.

    Returns:
      A checked table.

    Raises:
      PredictionsError: a column is absent, a value missing or strange, a name there twice.
    """
    table = _read_csv(path)
    missing = [name for name in ("image_name", "target") if name not in table]
    missing += ["prediction"] if not {"logit", "prediction"} & set(table) else []
    if missing:
        raise PredictionsError(
            f"{path} has no column {', '.join(missing)}; expected image_name, patient_id, target, prediction, "
            f"got {', '.join(table.columns)}"
        )
    return check(table, str(path), folds_from)


def read_unlabelled(path: Path) -> pd.DataFrame:
    """Reads predictions of images whose target is not known.

    Args:
      path: CSV with image_name and target, the prediction, as melanoma_tf.predict and Kaggle have it.

    Returns:
      A checked table whose `target` means nothing.

    Raises:
      PredictionsError: see `read`.
    """
    table = _read_csv(path)
    if missing := [name for name in ("image_name", "target") if name not in table]:
        raise PredictionsError(
            f"{path} has no column {', '.join(missing)}; expected image_name, target (the prediction), as "
            f"melanoma_tf.predict writes them, got {', '.join(table.columns)}"
        )
    if {"logit", "prediction"} & set(table):  # then its target may be the truth
        raise PredictionsError(
            f"{path} has a prediction beside its target; expected image_name, target (the prediction) alone, as "
            f"melanoma_tf.predict writes them, got {', '.join(table.columns)}"
        )
    return check(
        pd.DataFrame({"image_name": table["image_name"], "prediction": table["target"], "target": 0}), str(path)
    )


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=_MISSING)
    except (OSError, ValueError) as error:  # pandas' own errors of bad CSV are ValueErrors
        raise PredictionsError(f"{path} is not readable as a CSV file: {error}") from error
    table.columns = table.columns.str.strip()
    if not table.columns.is_unique:
        twice = sorted(set(table.columns[table.columns.duplicated()]))
        raise PredictionsError(f"{path}: column {', '.join(twice)} is there twice; expected each column once")
    for name in (*_TEXTS, *_OTHER_NAMES["image_name"]):
        if name in table:
            table[name] = table[name].map(text.from_cell, na_action="ignore")
    for name, others in _OTHER_NAMES.items():
        known = next((other for other in others if other in table), None)
        if name == "prediction" and "logit" in table:  # a run's oof.csv has both, and the logit has more digits
            continue
        if name not in table and known is not None:
            table = table.rename(columns={known: name})
    return table


def check(table: pd.DataFrame, origin: str, folds_from: str | None = None) -> pd.DataFrame:
    """Checks a table of predictions and completes its columns.

    Args:
      table: image_name, target, logit or prediction, and what else is known.
      origin: name of the table in messages.
      folds_from: column with the fold of each image instead of `fold`.

    Raises:
      PredictionsError: see `read`.
    """
    if not len(table):
        raise PredictionsError(f"{origin} has no row")
    found = pd.DataFrame({"image_name": table["image_name"]}, index=table.index)
    _refuse(origin, found["image_name"].isna(), "no image_name", pd.Series(table.index + 2, table.index, dtype=str))
    names = found["image_name"].astype(str)
    found["image_name"] = names
    _refuse(origin, names.duplicated(keep=False), "more than one prediction", names)
    found["target"] = _numbers(origin, table["target"], "target", names)
    _refuse(origin, ~found["target"].isin([0, 1]), "a target other than 0 and 1", names)
    if {"logit", "prediction"} <= set(table):
        raise PredictionsError(f"{origin} has both a logit and a prediction; expected one of them")
    column = "logit" if "logit" in table else "prediction"
    score = _numbers(origin, table[column], column, names)
    if column == "logit":
        found["logit"], found["probability"] = score, special.expit(score)
    elif score.between(0, 1).all():
        found["logit"], found["probability"] = calibration.logit(score), score
    else:  # scores on a scale of their own
        found["logit"], found["probability"] = score, np.nan
    for name in ("patient_id", "source", *METADATA):
        if name in table:
            number = name not in _TEXTS
            found[name] = _optional_numbers(origin, table[name], name, names) if number else table[name]
    if "patient_id" not in found:
        found["patient_id"] = None
    found["fold"] = _folds(table, origin, folds_from)
    return _in_folds(found.astype({"target": int}).reset_index(drop=True))


def _in_folds(table: pd.DataFrame) -> pd.DataFrame:
    """Leaves out images of fold -1 where others have folds: the duplicates of published splits. `attrs` counts them."""
    outside = table["fold"] == NO_FOLD
    if outside.all() or not outside.any():
        return table
    kept = table[~outside].reset_index(drop=True)
    kept.attrs["left_out"] = int(outside.sum())
    return kept


def _folds(table: pd.DataFrame, origin: str, folds_from: str | None) -> pd.Series:
    column = folds_from or "fold"
    if column in table:
        return _numbers(origin, table[column], column, table["image_name"]).astype(int)
    if folds_from:
        raise PredictionsError(f"{origin} has no column {folds_from} (--folds_from); got {', '.join(table.columns)}")
    return pd.Series(NO_FOLD, table.index)


def _numbers(origin: str, column: pd.Series, name: str, names: pd.Series) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    _refuse(origin, ~values.between(-np.inf, np.inf, inclusive="neither"), f"no finite {name}", names)
    return values


def _optional_numbers(origin: str, column: pd.Series, name: str, names: pd.Series) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce")
    _refuse(origin, values.isna() & column.notna(), f"no number as {name}", names)
    return values


def _refuse(origin: str, bad: pd.Series, what: str, names: pd.Series) -> None:
    if bad.any():
        shown = names[bad].astype(str).unique()
        more = f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
        raise PredictionsError(f"{origin}: {what} for {', '.join(map(repr, shown[:_SHOWN].tolist()))}{more}")


def with_metadata(
    table: pd.DataFrame, metadata: pd.DataFrame, origin: str, folds_from: str | None = None
) -> pd.DataFrame:
    """Adds what another table knows of the images.

    Folds that nobody named are those of `metadata` if it has any; `attrs` says so, because nothing then says that the
    model was trained by them.

    Args:
      table: a checked table.
      metadata: image_name and any of patient_id, source, METADATA and `folds_from`.
      origin: name of the metadata in messages.
      folds_from: column of `metadata` with the fold of each image.

    Raises:
      PredictionsError: an image is not in `metadata`, or is there twice.
    """
    if "image_name" not in metadata:
        raise PredictionsError(f"{origin} has no column image_name; got {', '.join(metadata.columns)}")
    names = table["image_name"]
    _refuse(
        origin,
        metadata["image_name"].duplicated(keep=False) & metadata["image_name"].isin(names),
        "two rows",
        metadata["image_name"],
    )
    _refuse(origin, ~names.isin(metadata["image_name"]), "no row", names)
    row_of = metadata.set_index("image_name").loc[names].reset_index()
    joined = table.copy()
    for name in ("patient_id", "source", *METADATA):
        if name in row_of:
            new = row_of[name] if name in _TEXTS else _optional_numbers(origin, row_of[name], name, names)
            old = joined.get(name, pd.Series(None, joined.index, dtype=object))
            kind = str if name in _TEXTS else float  # 45 is 45.0, as a column with missing values has it
            _refuse(
                origin, new.notna() & old.notna() & (new.astype(kind) != old.astype(kind)), f"another {name}", names
            )
            joined[name] = new.where(new.notna(), old)
    if folds_from or ((joined["fold"] == NO_FOLD).all() and "fold" in row_of):
        joined["fold"] = _folds(row_of, origin, folds_from)
        joined.attrs["folds_assumed"] = folds_from is None
    if "target" in row_of:
        other = pd.to_numeric(row_of["target"], errors="coerce")
        _refuse(origin, other.notna() & (other != joined["target"]), "another target", names)
    return _in_folds(joined)


def read_metadata(path: Path) -> pd.DataFrame:
    """Reads a table of metadata, under our names of columns.

    Raises:
      PredictionsError: it cannot be read.
    """
    return _read_csv(path)


def patients(table: pd.DataFrame) -> pd.Series:
    """Returns the patient of each image; an image of an unknown patient is one of its own."""
    return table["patient_id"].fillna("image " + table["image_name"])


def shared_patients(table: pd.DataFrame) -> list[str]:
    """Returns the patients with images in more than one fold."""
    folds = table.dropna(subset="patient_id").groupby("patient_id")["fold"].nunique()
    return sorted(folds.index[folds > 1].astype(str))


def same_images(first: pd.DataFrame, second: pd.DataFrame, origins: Sequence[str]) -> pd.DataFrame:
    """Returns the rows of `second` in the order of `first`.

    Args:
      first: a checked table.
      second: another.
      origins: names of both in messages.

    Raises:
      PredictionsError: they are not of the same images with the same targets.
    """
    for one, other, origin in ((first, second, origins[1]), (second, first, origins[0])):
        _refuse(origin, ~one["image_name"].isin(other["image_name"]), "no prediction", one["image_name"])
    ordered = second.set_index("image_name").loc[first["image_name"]].reset_index()
    _refuse(origins[1], ordered["target"] != first["target"], "another target", first["image_name"])
    return ordered
