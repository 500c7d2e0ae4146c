"""Confidence intervals by a bootstrap over patients."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from melanoma_tf.evaluation import metrics

# From weights [R,N] of the images to [R] values of each of several statistics.
Statistics = Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]

# Called with the number of resamples that are done, and that of all.
Watcher = Callable[[int, int], object]
_WATCHER: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar("watcher", default=None)

_ROWS = 64  # resamples at a time, each of N weights, to bound memory
_MIN_DEFINED = 0.9  # of the resamples, or there is no interval


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; the bounds are NaN where too few resamples define the statistic."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.4f} (no interval)"
        return f"{self.value:.4f} ({self.level:.0%} interval {self.low:.4f} to {self.high:.4f})"


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Shows the progress of every `bootstrap` in the block."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def resamples(clusters: ArrayLike, replicates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yields how often each image is drawn when whole clusters are drawn with replacement.

    Args:
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling.

    Yields:
      [R,N] for some of the resamples.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    n = int(cluster.max()) + 1
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, _ROWS):
        rows = min(_ROWS, replicates - start)
        yield rng.multinomial(n, np.full(n, 1 / n), size=rows)[:, cluster].astype(np.float64)


def bootstrap(
    statistics: Statistics,
    clusters: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Computes statistics of the data and of resamples of whole clusters (patients).

    Images of one patient are not independent; resampling images would give intervals that are too narrow
    (Field & Welsh 2007).

    Args:
      statistics: all statistics of a batch of weightings.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling; the same seed draws the same resamples, so that differences are paired.

    Returns:
      [1 + replicates] for each statistic: its value, then that of each resample, NaN where it is undefined.
    """
    n, watcher, done = len(np.asarray(clusters)), _WATCHER.get(), 0
    found = {name: [values] for name, values in statistics(np.ones((1, n))).items()}
    for weights in resamples(clusters, replicates, seed):
        for name, values in statistics(weights).items():
            found[name].append(values)
        done += len(weights)
        if watcher:
            watcher(done, replicates)
    return {name: np.concatenate(values) for name, values in found.items()}


def percentile(values: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Returns the percentile interval of one statistic of `bootstrap`."""
    value, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not len(drawn) or len(drawn) < _MIN_DEFINED * (len(values) - 1):
        return Interval(value, np.nan, np.nan, level)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high), level)


def rates(
    parts: Mapping[str, tuple[ArrayLike, ArrayLike]], clusters: ArrayLike, *, replicates: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """Shares of images with Wilson's interval, which is honest also where all or none are found.

    Images count as fewer independent ones where those of a patient are alike: as many as make the variance that the
    bootstrap over patients finds, or one a patient where it finds none.

    Args:
      parts: name to (images counted, images they are a share of), [N] of booleans each.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling.

    Returns:
      The interval of each; NaN for a share of nothing.
    """
    statistics = {name: ratio(*columns) for name, columns in parts.items()}
    drawn = bootstrap(
        lambda w: {name: of(w) for name, of in statistics.items()}, clusters, replicates=replicates, seed=seed
    )
    cluster, found = np.asarray(clusters), {}
    for name, (_, among) in parts.items():
        mask = np.asarray(among, bool)
        value, spread = float(drawn[name][0]), float(np.nanvar(drawn[name][1:])) if mask.any() else np.nan
        independent = float(len(np.unique(cluster[mask])))
        if spread > 0:
            independent = min(float(mask.sum()), value * (1 - value) / spread)
        found[name] = _wilson(value, independent)
    return found


def _wilson(value: float, n: float, level: float = 0.95) -> Interval:
    """Interval of a share of n independent images (Wilson 1927)."""
    if not n:
        return Interval(value, np.nan, np.nan, level)
    z = float(special.ndtri((1 + level) / 2))
    middle, half = value + z * z / (2 * n), z * float(np.sqrt(value * (1 - value) / n + z * z / (4 * n * n)))
    return Interval(
        value, max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n)), level
    )


def ranking_statistics(labels: ArrayLike, scores: ArrayLike) -> Statistics:
    """Returns the metrics of `metrics.RANKING` as statistics of weights.

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`.
    """
    ranking = metrics.Ranking(labels, scores)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        curve = ranking.curve(weights)
        return {name: metric(curve) for name, metric in metrics.RANKING.items()}

    return statistics


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Returns a statistic of weights: the weighted sum of one column [N] over that of another."""
    a, b = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ a) / (weights @ b)

    return statistic


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

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive; finite.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      level: coverage of the interval.
      seed: seed of the resampling.

    Raises:
      metrics.UndefinedMetricError: only one class, or a class with images of fewer than two clusters.
      ValueError: see `metrics.Ranking`.
    """
    ranking = metrics.Ranking(labels, scores)
    y, cluster = np.asarray(labels), np.asarray(clusters)
    for label, name in ((1, "positive"), (0, "negative")):
        if len(np.unique(cluster[y == label])) < 2:
            raise metrics.UndefinedMetricError(f"an interval needs {name} images of at least two patients")
    drawn = bootstrap(
        lambda weights: {"auc": metrics.area(ranking.curve(weights))}, clusters, replicates=replicates, seed=seed
    )
    return percentile(drawn["auc"], level)
