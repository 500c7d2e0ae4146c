"""Exact metrics of scores against labels, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class UndefinedMetricError(ValueError):
    """A metric is not defined for the data, e.g. the AUC of a single class."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting one half.

    The Mann-Whitney form (Hanley & McNeil 1982), exact also with ties.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive; finite.
      weights: [N], >= 0, or None for ones.

    Raises:
      UndefinedMetricError: one of the classes has no weight.
      ValueError: a label other than 0 and 1, a score that is not finite, or inputs of different lengths.
    """
    y, s, w = check_inputs(labels, scores, weights)
    order = np.argsort(s, kind="stable")
    return float(auc_of_sorted(y[order], tie_starts(s[order]), w[order][None])[0])


def check_inputs(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns the inputs of `auc` as arrays [N].

    Raises:
      UndefinedMetricError, ValueError: see `auc`.
    """
    y, s = np.asarray(labels).ravel(), np.asarray(scores, np.float64).ravel()
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64).ravel()
    if not len(y) == len(s) == len(w):
        raise ValueError(f"got {len(y)} labels, {len(s)} scores and {len(w)} weights; expected equal numbers")
    strange = np.setdiff1d(y, (0, 1))
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, got {strange[0]!r}")
    bad = np.flatnonzero(~np.isfinite(s))
    if len(bad):
        raise ValueError(f"scores must be finite, got {s[bad[0]]} at index {bad[0]}")
    for value, name in ((1, "positive"), (0, "negative")):
        if not w[y == value].sum() > 0:
            raise UndefinedMetricError(f"the AUC needs both classes; got no {name} among {len(y)} labels")
    return y.astype(np.int64), s, w


def tie_starts(sorted_scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the index at which each run of equal scores starts."""
    return np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])


def auc_of_sorted(
    labels: NDArray[np.int64], tie_starts: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the AUC for each of several weightings.

    Args:
      labels: [N] in {0, 1}, sorted by score.
      tie_starts: see `tie_starts`.
      weights: [R,N], sorted by score.

    Returns:
      [R]; NaN where a class has no weight.
    """
    positive = np.add.reduceat(weights * labels, tie_starts, axis=1)
    negative = np.add.reduceat(weights * (1 - labels), tie_starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return won / (positive.sum(axis=1) * negative.sum(axis=1))
