"""AUC and sensitivity within subgroups of the images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from melanoma_tf.evaluation import intervals, metrics

MIN_PATIENTS = 10  # with an image of a class; fewer say nothing about a rate: 10 of 10 has a lower limit of 72 %
AGE_BANDS = (0, 30, 40, 50, 60, 70, 200)  # years
UNKNOWN = "unknown"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """Figures of one subgroup.

    Attributes:
      images: number of images.
      patients: number of patients.
      positives: number of malignant images.
      auc: None where too few patients have a positive or a negative image.
      sensitivity: at the operating point; None likewise.
      specificity: at the operating point; None likewise.
    """

    images: int
    patients: int
    positives: int
    auc: intervals.Interval | None = None
    sensitivity: intervals.Interval | None = None
    specificity: intervals.Interval | None = None


def age_band(ages: pd.Series) -> pd.Series:
    """Returns bands of ten years as categories: `under 30` to `70 and over`, and `unknown` where there is no age."""
    names = [f"under {AGE_BANDS[1]}"]
    names += [f"{low} to {high - 1}" for low, high in itertools.pairwise(AGE_BANDS[1:-1])]
    names += [f"{AGE_BANDS[-2]} and over"]
    bands = pd.cut(pd.to_numeric(ages), AGE_BANDS, right=False, labels=names)
    return bands.cat.add_categories(UNKNOWN).fillna(UNKNOWN)


def largest(values: pd.Series, shown: int) -> pd.Series:
    """Returns groups with all after the largest `shown` of them named `other`; unknown ones stay unknown."""
    counts = values.value_counts()
    return values.where(values.isna() | values.isin(counts.index[:shown]), OTHER)


def within(
    labels: ArrayLike,
    scores: ArrayLike,
    flagged: ArrayLike,
    clusters: ArrayLike,
    groups: Mapping[str, ArrayLike],
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Subgroup]]:
    """Evaluates every value of every grouping.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], for the AUC.
      flagged: [N], whether an image is flagged at the operating point.
      clusters: [N], patient of each image.
      groups: name of a grouping to [N], the subgroup of each image, e.g. {"sex": ...}.
      replicates: number of resamples.
      seed: seed of the resampling.

    Returns:
      For each grouping its subgroups: categories in their order, other values by falling number of images.
    """
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    raised, cluster = np.asarray(flagged, bool), np.asarray(clusters)
    found: dict[str, dict[str, Subgroup]] = {}
    for name, values in groups.items():
        value = np.asarray(pd.Series(np.asarray(values, object)).fillna(UNKNOWN), str)
        members = list(pd.Series(value).value_counts().index)
        if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
            members = [member for member in values.cat.categories if member in members]
        found[name] = {}
        for member in members:
            own = value == member
            found[name][member] = _subgroup(y[own], s[own], raised[own], cluster[own], replicates, seed)
    return found


def _subgroup(
    y: NDArray[np.int64],
    s: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    cluster: NDArray[np.object_],
    replicates: int,
    seed: int,
) -> Subgroup:
    counts = Subgroup(len(y), len(np.unique(cluster)), int(y.sum()))
    positive = y == 1
    if min(len(np.unique(cluster[of])) for of in (positive, ~positive)) < MIN_PATIENTS:
        return counts
    ranking = metrics.Ranking(y, s)
    drawn = intervals.bootstrap(
        lambda weights: {"auc": metrics.area(ranking.curve(weights))}, cluster, replicates=replicates, seed=seed
    )
    parts = {"sensitivity": (positive & flagged, positive), "specificity": (~positive & ~flagged, ~positive)}
    rates = intervals.rates(parts, cluster, replicates=replicates, seed=seed)
    return dataclasses.replace(
        counts,
        auc=intervals.percentile(drawn["auc"]),
        sensitivity=rates["sensitivity"],
        specificity=rates["specificity"],
    )
