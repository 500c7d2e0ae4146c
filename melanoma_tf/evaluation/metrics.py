"""Exact figures from scores and labels, in numpy, after everything was gathered."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray


class UndefinedMetricError(ValueError):
    """The figure does not exist for this data, e.g. an AUC of one class."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.level:.0%} interval {self.low:.4f} to {self.high:.4f})"


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    The Mann-Whitney form (Hanley & McNeil 1982), exact for any ties, not a histogram.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive; finite.
      weights: [N], >= 0, or None for ones.

    Raises:
      UndefinedMetricError: one of the classes has no weight.
      ValueError: a label other than 0 and 1, or a score that is not finite.
    """
    y, s, w = _checked(labels, scores, weights)
    order = np.argsort(s, kind="stable")
    return float(_auc_of_ordered(y[order], _tie_starts(s[order]), w[order][None])[0])


def clustered_auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: ArrayLike,
    *,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """AUC with a percentile bootstrap interval that resamples whole clusters (patients).

    Images of one patient are not independent; resampling images would give intervals that are too narrow
    (Field & Welsh 2007). Resamples without one of the classes are drawn anew.

    Args:
      labels, scores: as for `auc`.
      clusters: [N] patient of each image.

    Raises:
      UndefinedMetricError: one class only, or fewer than two clusters hold a class's images so that no interval exists.
    """
    y, s, _ = _checked(labels, scores, None)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    for value, name in ((1, "positive"), (0, "negative")):
        if len(np.unique(cluster[y == value])) < 2:
            raise UndefinedMetricError(f"an interval needs {name} images of at least two patients")
    order = np.argsort(s, kind="stable")
    y, cluster, starts = y[order], cluster[order], _tie_starts(s[order])
    rng = np.random.default_rng(seed)
    clusters_n = int(cluster.max()) + 1
    found: list[float] = []
    while len(found) < replicates:
        rows = min(64, replicates - len(found))  # bounds memory: 64 x N weights at a time
        times_drawn = rng.multinomial(clusters_n, np.full(clusters_n, 1 / clusters_n), size=rows)
        values = _auc_of_ordered(y, starts, times_drawn[:, cluster].astype(np.float64))
        found.extend(values[np.isfinite(values)].tolist())
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    value = _auc_of_ordered(y, starts, np.ones((1, len(y))))[0]
    return Interval(float(value), float(low), float(high), level)


def _checked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    y, s = np.asarray(labels).ravel(), np.asarray(scores, np.float64).ravel()
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64).ravel()
    if not len(y) == len(s) == len(w):
        raise ValueError(f"{len(y)} labels, {len(s)} scores and {len(w)} weights do not belong together")
    strange = np.setdiff1d(y, (0, 1))
    if len(strange):
        raise ValueError(f"labels must be 0 or 1, found {strange[0]!r}")
    bad = np.flatnonzero(~np.isfinite(s))
    if len(bad):
        raise ValueError(f"scores must be finite, number {bad[0]} is {s[bad[0]]}")
    for value, name in ((1, "positive"), (0, "negative")):
        if not w[y == value].sum() > 0:
            raise UndefinedMetricError(f"the AUC needs both classes; there is no {name} among {len(y)} labels")
    return y.astype(np.int64), s, w


def _tie_starts(ordered_scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index at which each run of equal scores starts."""
    return np.flatnonzero(np.r_[True, ordered_scores[1:] != ordered_scores[:-1]])


def _auc_of_ordered(
    labels: NDArray[np.int64], tie_starts: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUC of each row of weights[R,N], the examples ordered by score. NaN where a class has no weight."""
    positive = np.add.reduceat(weights * labels, tie_starts, axis=1)
    negative = np.add.reduceat(weights * (1 - labels), tie_starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return won / (positive.sum(axis=1) * negative.sum(axis=1))
