"""Metrics of scores against binary labels, exact with ties, for many weightings at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class UndefinedMetricError(ValueError):
    """A metric is not defined for the data, e.g. the AUC of a single class."""


class Curve(NamedTuple):
    """Cumulative weights by falling threshold; column 0 is the threshold above all scores.

    Attributes:
      true_positives: [R,T+1], weight of the positives at or above each of T thresholds: the corners of the ROC curve.
      false_positives: [R,T+1], weight of the negatives there.
    """

    true_positives: Floats
    false_positives: Floats

    @property
    def sensitivity(self) -> Floats:
        """[R,T+1], true positive rate; NaN where there are no positives."""
        return _divide(self.true_positives, self.true_positives[:, -1:])

    @property
    def false_positive_rate(self) -> Floats:
        """[R,T+1]; NaN where there are no negatives."""
        return _divide(self.false_positives, self.false_positives[:, -1:])


class Ranking:
    """Images sorted by falling score, equal scores grouped."""

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        """Sorts the images.

        Args:
          labels: [N] in {0, 1}.
          scores: [N], larger means more likely positive; finite.

        Raises:
          UndefinedMetricError: only one class.
          ValueError: a label other than 0 and 1, a score that is not finite, or different lengths.
        """
        y, s = check_inputs(labels, scores)
        self.order = np.argsort(-s, kind="stable")
        self.labels = y[self.order]
        falling = s[self.order]
        starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
        # Scores of negatives only, one after the other, are a straight line of the curve: one step.
        negative = np.add.reduceat(self.labels, starts) == 0
        self._starts = starts[~(negative & np.r_[False, negative[:-1]])]

    def curve(self, weights: Floats | None = None) -> Curve:
        """Returns the curve for each row of `weights` [R,N], or with equal weights where it is None."""
        w = np.ones((1, len(self.labels))) if weights is None else weights[:, self.order]
        positive = np.add.reduceat(w * self.labels, self._starts, axis=1)
        negative = np.add.reduceat(w, self._starts, axis=1) - positive
        return Curve(_cumulate(positive), _cumulate(negative))


def _cumulate(weights: Floats) -> Floats:
    return np.pad(np.cumsum(weights, axis=1), ((0, 0), (1, 0)))


def _divide(a: Floats, b: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return a / b


def check_inputs(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Returns labels and scores as arrays [N].

    Raises:
      UndefinedMetricError, ValueError: see `Ranking`.
    """
    y, s = np.asarray(labels).ravel(), np.asarray(scores, np.float64).ravel()
    if len(y) != len(s):
        raise ValueError(f"got {len(y)} labels and {len(s)} scores; expected equal numbers")
    strange = np.setdiff1d(y, (0, 1))
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, got {strange[0]!r}")
    bad = np.flatnonzero(~np.isfinite(s))
    if len(bad):
        raise ValueError(f"scores must be finite, got {s[bad[0]]} at index {bad[0]}")
    for value, name in ((1, "positive"), (0, "negative")):
        if not (y == value).any():
            raise UndefinedMetricError(f"the AUC needs both classes; got no {name} among {len(y)} labels")
    return y.astype(np.int64), s


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting one half.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive; finite.
      weights: [N], >= 0, or None for ones.

    Raises:
      UndefinedMetricError, ValueError: see `Ranking`.
    """
    rows = None if weights is None else np.asarray(weights, np.float64)[None]
    value = float(area(Ranking(labels, scores).curve(rows))[0])
    if np.isnan(value):
        raise UndefinedMetricError("the AUC needs both classes; one has no weight")
    return value


def area(curve: Curve) -> Floats:
    """[R], area under the ROC curve (Hanley & McNeil 1982)."""
    return _trapezoids(curve.false_positive_rate, curve.sensitivity)


def _trapezoids(x: Floats, y: Floats) -> Floats:
    return (np.diff(x, axis=1) * (y[:, 1:] + y[:, :-1])).sum(axis=1) / 2


def average_precision(curve: Curve) -> Floats:
    """[R], precision averaged over the positives, without interpolation (as `sklearn.metrics` defines it)."""
    tp, fp = curve.true_positives[:, 1:], curve.false_positives[:, 1:]
    # Leading images of weight zero have no precision, and no positive to count it for.
    precision = np.where(tp > 0, _divide(tp, tp + fp), 0.0)
    return (np.diff(curve.sensitivity, axis=1) * precision).sum(axis=1)


def partial_auc(curve: Curve, min_sensitivity: float = 0.8) -> Floats:
    """[R], area under the ROC curve above a sensitivity, the metric of ISIC 2024.

    Between 0 and 1 - min_sensitivity; a random score has half the square of that.
    """
    tpr, fpr = curve.sensitivity, curve.false_positive_rate
    low, high = tpr[:, :-1], tpr[:, 1:]
    width = high - np.maximum(low, min_sensitivity)
    # False positive rate in the middle of the part of a segment above min_sensitivity.
    share = np.where(high > low, 1 - width / np.where(high > low, 2 * (high - low), 1), 0.0)
    middle = fpr[:, :-1] + share * np.diff(fpr, axis=1)
    return (np.maximum(width, 0) * (1 - middle)).sum(axis=1) + 0 * tpr[:, -1]


def sensitivity_at(specificity: float) -> Callable[[Curve], Floats]:
    """Returns a metric: the highest sensitivity of a threshold with at least this specificity."""

    def metric(curve: Curve) -> Floats:
        fpr = curve.false_positive_rate
        last = (fpr <= 1 - specificity + 1e-12).sum(axis=1) - 1
        return np.take_along_axis(curve.sensitivity, np.maximum(last, 0)[:, None], 1)[:, 0] + 0 * fpr[:, -1]

    return metric


def specificity_at(sensitivity: float) -> Callable[[Curve], Floats]:
    """Returns a metric: the highest specificity of a threshold with at least this sensitivity."""

    def metric(curve: Curve) -> Floats:
        tpr = curve.sensitivity
        first = np.minimum((tpr < sensitivity - 1e-12).sum(axis=1), tpr.shape[1] - 1)
        return 1 - np.take_along_axis(curve.false_positive_rate, first[:, None], 1)[:, 0] + 0 * tpr[:, -1]

    return metric


# Names in metrics.json, for metrics of the ranking alone.
RANKING: dict[str, Callable[[Curve], Floats]] = {
    "auc": area,
    "average_precision": average_precision,
    "partial_auc": partial_auc,
    "sensitivity_at_specificity_90": sensitivity_at(0.90),
    "sensitivity_at_specificity_95": sensitivity_at(0.95),
    "specificity_at_sensitivity_90": specificity_at(0.90),
    "specificity_at_sensitivity_95": specificity_at(0.95),
}


def in_top(scores: ArrayLike, clusters: ArrayLike, k: int = 15) -> NDArray[np.bool_]:
    """Marks the images among the k highest scores of their patient.

    The share of positives that are marked is the top-k sensitivity of ISIC 2024: what a reader finds who looks at k
    images of each patient. An image that shares the k-th place with another is not marked.

    Args:
      scores: [N].
      clusters: [N], patient of each image.
      k: images that are looked at.

    Returns:
      [N].
    """
    s = np.asarray(scores, np.float64)
    _, patient = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.lexsort((-s, patient))
    group = np.flatnonzero(np.r_[True, np.diff(patient[order]) != 0, True])
    marked = np.zeros(len(s), bool)
    for start, end in itertools.pairwise(group):
        falling = s[order[start:end]]
        # Images of at least this score, itself included.
        at_least = np.searchsorted(-falling, -falling, side="right")
        marked[order[start:end]] = at_least <= k
    return marked
