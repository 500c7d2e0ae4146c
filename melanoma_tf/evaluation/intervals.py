"""Confidence intervals by a bootstrap over patients."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from melanoma_tf.evaluation import metrics

_ROWS = 64  # resamples at a time, each of N weights, to bound memory


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.level:.0%} interval {self.low:.4f} to {self.high:.4f})"


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
    (Field & Welsh 2007). Resamples without one of the classes are drawn again.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive; finite.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      level: coverage of the interval.
      seed: seed of the resampling.

    Raises:
      metrics.UndefinedMetricError: only one class, or a class with images of fewer than two clusters.
      ValueError: see `metrics.auc`.
    """
    y, s, _ = metrics.check_inputs(labels, scores)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    for label, name in ((1, "positive"), (0, "negative")):
        if len(np.unique(cluster[y == label])) < 2:
            raise metrics.UndefinedMetricError(f"an interval needs {name} images of at least two patients")
    order = np.argsort(s, kind="stable")
    y, cluster, starts = y[order], cluster[order], metrics.tie_starts(s[order])
    rng = np.random.default_rng(seed)
    clusters_n = int(cluster.max()) + 1
    found: list[float] = []
    while len(found) < replicates:
        rows = min(_ROWS, replicates - len(found))
        times_drawn = rng.multinomial(clusters_n, np.full(clusters_n, 1 / clusters_n), size=rows)
        values = metrics.auc_of_sorted(y, starts, times_drawn[:, cluster].astype(np.float64))
        found.extend(values[np.isfinite(values)].tolist())
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    value = metrics.auc_of_sorted(y, starts, np.ones((1, len(y))))[0]
    return Interval(float(value), float(low), float(high), level)
