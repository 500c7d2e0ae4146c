"""What corruptions of the images do to the scores: AUC, and decisions at the operating point that flip."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from melanoma_tf.evaluation import calibration, compare, intervals, metrics, predictions


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one corruption does.

    Attributes:
      auc: under the corruption.
      difference: of that to the AUC of the same images as they are, with a paired, patient-clustered interval.
      p_value: of the difference, two-sided.
      sensitivity: at the operating point, under the corruption.
      specificity: likewise.
      flipped_positives: share of the positives whose decision is another than on the image as it is.
      flipped_negatives: share of the negatives, likewise.
    """

    auc: float
    difference: intervals.Interval
    p_value: float
    sensitivity: intervals.Interval
    specificity: intervals.Interval
    flipped_positives: intervals.Interval
    flipped_negatives: intervals.Interval


def effect(
    labels: ArrayLike,
    clean: tuple[ArrayLike, ArrayLike],
    corrupted: tuple[ArrayLike, ArrayLike],
    clusters: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> Effect:
    """Compares scores and decisions of the same images with and without a corruption.

    Args:
      labels: [N] in {0, 1}.
      clean: scores [N] of the images as they are, and whether each is flagged [N].
      corrupted: the same under the corruption.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling.

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`.
    """
    y = np.asarray(labels) == 1
    before, after = (np.asarray(flagged, bool) for _, flagged in (clean, corrupted))
    options = {"replicates": replicates, "seed": seed}
    auc = compare.paired(labels, corrupted[0], clean[0], clusters, **options)["auc"]
    parts: dict[str, tuple[ArrayLike, ArrayLike]] = {
        "sensitivity": (y & after, y),
        "specificity": (~y & ~after, ~y),
        "flipped_positives": (y & (before != after), y),
        "flipped_negatives": (~y & (before != after), ~y),
    }
    return Effect(auc.first, auc.interval, auc.p_value, **intervals.rates(parts, clusters, **options))


def choose(table: pd.DataFrame, available: Collection[str], most: int) -> pd.DataFrame:
    """Returns the rows of images to score, in their order.

    Melanomas are few, so they are all taken, up to half of the images if others suffice for the rest. Neither the AUC
    nor a rate within one class depends on how many of each there are.

    Args:
      table: a checked table of predictions.
      available: names of images that can be scored.
      most: images in all; 0 takes every one.

    Raises:
      predictions.PredictionsError: no image of a class is available.
    """
    rows = table[table["image_name"].isin(set(available))]
    of_class = {label: rows[rows["target"] == label].sort_values("image_name") for label in (1, 0)}
    for label, name in ((1, "melanoma"), (0, "other image")):
        if not len(of_class[label]):
            raise predictions.PredictionsError(f"stress: no {name} among the {len(rows):,} images that can be scored")
    if not 0 < most < len(rows):
        return rows
    positives = min(len(of_class[1]), max(most // 2, most - len(of_class[0])))
    drawn = [of_class[1].sample(positives, random_state=0), of_class[0].sample(most - positives, random_state=0)]
    return rows[rows["image_name"].isin(pd.concat(drawn)["image_name"])]


@dataclasses.dataclass(frozen=True)
class Decider:
    """Decides at the operating point as for out-of-fold predictions: each fold calibrated by the others.

    Attributes:
      calibrators: by fold; empty where nothing is calibrated.
      threshold: of calibrated logits.
    """

    calibrators: dict[int, calibration.Calibrator]
    threshold: float

    @classmethod
    def fit(cls, table: pd.DataFrame, method: calibration.Method, threshold: float) -> Decider:
        """Fits calibrators on out-of-fold predictions, as `calibration.nested` does.

        Args:
          table: a checked table of predictions.
          method: see `calibration.fit`.
          threshold: of calibrated logits, or of logits where they cannot be calibrated.
        """
        columns = (table[name] for name in ("target", "logit", "fold"))
        try:
            found = calibration.fit_nested(method, *columns)
        except metrics.UndefinedMetricError:  # one fold, or one class beside a fold
            found = {}
        scores = calibration.apply_nested(found, table["logit"], table["fold"])
        # Halfway to the next score, because another device does not repeat a score to the last bit.
        below = scores[scores < threshold]
        return cls(found, (threshold + below.max()) / 2 if len(below) else threshold)

    def __call__(self, logits: ArrayLike, folds: ArrayLike) -> NDArray[np.bool_]:
        """Returns whether images are flagged [N], from logits [N] by the models of folds [N]."""
        return calibration.apply_nested(self.calibrators, logits, folds) >= self.threshold
