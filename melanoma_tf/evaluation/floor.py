"""The floor: how well the target can be predicted without looking at the lesion.

A model that has learned which camera took an image looks good on data whose cameras differ in prevalence. On ISIC 2020
image size and metadata alone reach an AUC of 0.84; what a model adds to that is what it knows of lesions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import threadpoolctl
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from melanoma_tf.evaluation import metrics, nesting

Floats = NDArray[np.float64]
# Names of features; those of a patient use all images of the data, as a model in use would not.
METADATA = ("age", "sex", "site")
SIZE = ("width", "height")
COUNT = ("images_of_patient",)
SHARE = ("share_of_size",)
# Feature sets in metrics.json; the last is the floor.
SETS = {
    "metadata": METADATA,
    "metadata and images per patient": METADATA + COUNT,
    "image size": SIZE,
    "metadata, images per patient, image size": METADATA + COUNT + SIZE,
    "metadata, images per patient, image size, share of that size": METADATA + COUNT + SIZE + SHARE,
}


def features(table: pd.DataFrame) -> pd.DataFrame:
    """Returns what is known of each image without its pixels.

    Args:
      table: image_name, patient_id, and as far as known sex, age_approx, anatom_site_general_challenge, width, height.

    Returns:
      A column of floats for each name in METADATA, COUNT, SIZE and SHARE that `table` has values for.
    """
    found: dict[str, pd.Series] = {}
    if "age_approx" in table:
        found["age"] = pd.to_numeric(table["age_approx"])
    for name, column in (("sex", "sex"), ("site", "anatom_site_general_challenge")):
        if column in table:
            codes = pd.Categorical(table[column]).codes
            found[name] = pd.Series(codes, table.index).where(codes >= 0).astype(float)
    patient = table["patient_id"].fillna("image " + table["image_name"])
    of_patient = patient.groupby(patient).transform("size")
    found["images_of_patient"] = of_patient
    if {"width", "height"} <= set(table):
        found["width"], found["height"] = pd.to_numeric(table["width"]), pd.to_numeric(table["height"])
        same = table.assign(patient_id=patient).groupby(["patient_id", "width", "height"])["image_name"]
        found["share_of_size"] = same.transform("size") / of_patient
    return pd.DataFrame({k: v for k, v in found.items() if v.nunique(dropna=True) > 1}, table.index, dtype=float)


def out_of_fold(columns: ArrayLike, labels: ArrayLike, folds: ArrayLike) -> Floats:
    """Fits gradient boosting to all folds but one and predicts that one, for each fold.

    Args:
      columns: [N,F], NaN where missing.
      labels: [N] in {0, 1}.
      folds: [N].

    Returns:
      [N], logits.

    Raises:
      metrics.UndefinedMetricError: a single fold, or only one class beside one.
    """
    x, y = np.asarray(columns, np.float64), np.asarray(labels)
    scores = np.empty(len(y))
    for name, own in nesting.each_fold(folds, "the floor"):
        if len(np.unique(y[~own])) < 2:
            raise metrics.UndefinedMetricError(f"the folds beside {name} have only one class")
        # Few shallow trees: positives are few, and a floor that overfits would be too low.
        model = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=150, max_depth=3, early_stopping=False, random_state=0
        )
        # Threads of OpenMP that share their core with other processes wait for one another, up to fifty times longer.
        with threadpoolctl.threadpool_limits(1):
            scores[own] = model.fit(x[~own], y[~own]).decision_function(x[own])
    return scores


def stacked(
    logits: ArrayLike, columns: ArrayLike, labels: ArrayLike, folds: ArrayLike, scales: ArrayLike | None = None
) -> Floats:
    """Predicts from the model's out-of-fold logit and the features together, nested by fold.

    Args:
      logits: [N], out of fold.
      columns: [N,F], see `out_of_fold`.
      labels: [N] in {0, 1}.
      folds: [N].
      scales: [N], fold of the model that made each logit, if `folds` joins some.

    Returns:
      [N], logits; their AUC less that of `out_of_fold` is what the model adds to the floor.
    """
    # Each fold's model has a scale of its own. Labels must not align them: those of one fold would reach the others.
    of_fold = pd.Series(np.asarray(logits, np.float64)).groupby(np.asarray(folds if scales is None else scales))
    aligned = (of_fold.transform("rank") - 0.5) / of_fold.transform("size")
    return out_of_fold(np.column_stack([aligned, np.asarray(columns, np.float64)]), labels, folds)
