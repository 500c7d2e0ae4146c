"""Paired comparison of two models' scores of the same images."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from melanoma_tf.evaluation import intervals, metrics


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of one metric between two models, first minus second.

    Attributes:
      first: metric of the first model.
      second: metric of the second model.
      interval: the difference with its patient-clustered interval.
      p_value: two-sided, by the share of resamples on the other side of zero.
      detectable: smallest true difference that data of this size show at 5 % significance with 80 % power.
    """

    first: float
    second: float
    interval: intervals.Interval
    p_value: float
    detectable: float


@dataclasses.dataclass(frozen=True)
class DeLong:
    """AUCs of several models of the same images and their covariance.

    Attributes:
      aucs: [M].
      covariance: [M,M].
    """

    aucs: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def difference(self, level: float = 0.95) -> tuple[intervals.Interval, float]:
        """Returns first minus second AUC with its normal interval, and the two-sided p-value."""
        value = float(self.aucs[0] - self.aucs[1])
        variance = self.covariance[0, 0] + self.covariance[1, 1] - 2 * self.covariance[0, 1]
        error = float(np.sqrt(max(variance, 0.0)))
        half = stats.norm.ppf((1 + level) / 2) * error
        p = float(2 * stats.norm.sf(abs(value) / error)) if error else float(value == 0)
        return intervals.Interval(value, value - half, value + half, level), p


def paired(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compares every metric of the ranking by a bootstrap that draws the same patients for both models.

    Args:
      labels: [N] in {0, 1}.
      first: [N], scores of one model.
      second: [N], scores of the other.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling.

    Returns:
      The difference of each metric of `metrics.RANKING`.

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`.
    """
    one, two = intervals.ranking_statistics(labels, first), intervals.ranking_statistics(labels, second)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {f"{k} {name}": v for k, of in (("1", one), ("2", two)) for name, v in of(weights).items()}

    drawn = intervals.bootstrap(statistics, clusters, replicates=replicates, seed=seed)
    return {name: _difference(drawn[f"1 {name}"], drawn[f"2 {name}"]) for name in metrics.RANKING}


def _difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    values = first - second
    drawn = values[1:][np.isfinite(values[1:])]
    # One more on each side: no p-value is smaller than the resamples can show (Davison & Hinkley 1997, 4.2.2).
    sides = [((side * drawn <= 0).sum() + 1) / (len(drawn) + 1) for side in (1, -1)]
    power = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    return Difference(
        float(first[0]),
        float(second[0]),
        intervals.percentile(values),
        float(min(1.0, 2 * min(sides))),
        float(power * drawn.std(ddof=1)) if len(drawn) > 1 else np.nan,
    )


def delong(labels: ArrayLike, scores: ArrayLike, clusters: ArrayLike | None = None) -> DeLong:
    """AUCs and their covariance by DeLong, DeLong & Clarke-Pearson (1988), in O(N log N) (Sun & Xu 2014).

    It takes images as independent, which images of one patient are not. With `clusters`, placement values are summed
    over patients first (Obuchowski 1997), which allows for that.

    Args:
      labels: [N] in {0, 1}.
      scores: [M,N], scores of each model.
      clusters: [N], patient of each image, or None for independent images.

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`; fewer than two images of a class.
    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    y = np.asarray(labels)
    for row in rows:
        metrics.check_inputs(y, row)
    positive, negative = y == 1, y == 0
    m, n = int(positive.sum()), int(negative.sum())
    if min(m, n) < 2:
        raise metrics.UndefinedMetricError(f"a variance needs two images of each class; got {m} and {n}")
    ranks = stats.rankdata(rows, axis=1)
    # Share of the other class that each image is ranked rightly against.
    placement = np.empty_like(rows)
    placement[:, positive] = (ranks[:, positive] - stats.rankdata(rows[:, positive], axis=1)) / n
    placement[:, negative] = 1 - (ranks[:, negative] - stats.rankdata(rows[:, negative], axis=1)) / m
    aucs = placement[:, positive].mean(axis=1)
    if clusters is None:
        return DeLong(aucs, np.atleast_2d(np.cov(placement[:, positive]) / m + np.cov(placement[:, negative]) / n))
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    patients = int(cluster.max()) + 1
    deviation = placement - aucs[:, None]

    def summed(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.stack([np.bincount(cluster[mask], row[mask], patients) for row in deviation])

    def factor(mask: NDArray[np.bool_]) -> float:
        k = len(np.unique(cluster[mask]))
        return k / (k - 1) if k > 1 else np.nan

    a, b = summed(positive) / m, summed(negative) / n
    covariance = factor(positive) * a @ a.T + factor(negative) * b @ b.T
    return DeLong(aucs, covariance + (a @ b.T + b @ a.T) * patients / (patients - 1))
