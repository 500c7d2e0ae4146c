"""Decisions by threshold: how to choose one, what it does, its net benefit, and which images a person should see."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from melanoma_tf.evaluation import intervals, metrics, nesting

Floats = NDArray[np.float64]
Rule = Literal["sensitivity", "specificity", "cost"]
RULES: tuple[Rule, ...] = ("sensitivity", "specificity", "cost")


def choose(labels: ArrayLike, scores: ArrayLike, rule: Rule, value: float, prevalence: float | None = None) -> float:
    """Chooses the threshold at or above which an image is flagged.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive.
      rule: `sensitivity`, the highest threshold with at least this sensitivity; `specificity`, the lowest with at
        least this specificity; `cost`, the cheapest where a missed positive costs `value` false alarms.
      value: in [0, 1] for a rate, positive for a cost.
      prevalence: share of positives where the threshold is used, for `cost`; None for that of the data.

    Returns:
      A score of the data, or infinity where nothing may be flagged.

    Raises:
      metrics.UndefinedMetricError: only one class.
      ValueError: a value out of range, or see `metrics.Ranking`.
    """
    y, s = metrics.check_inputs(labels, scores)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; expected one of: {', '.join(RULES)}")
    if not (value > 0 if rule == "cost" else 0 <= value <= 1):
        raise ValueError(f"{rule} must be {'positive' if rule == 'cost' else 'in [0, 1]'}, got {value}")
    thresholds = np.r_[np.unique(s), np.inf]
    positive, negative = np.sort(s[y == 1]), np.sort(s[y == 0])
    missed = np.searchsorted(positive, thresholds)  # positives below each threshold
    alarms = len(negative) - np.searchsorted(negative, thresholds)
    if rule == "sensitivity":
        return float(thresholds[missed <= (1 - value) * len(positive) + 1e-9].max())
    if rule == "specificity":
        return float(thresholds[alarms <= (1 - value) * len(negative) + 1e-9].min())
    share = len(positive) / len(y) if prevalence is None else prevalence
    cost = value * share * missed / len(positive) + (1 - share) * alarms / len(negative)
    return float(thresholds[np.argmin(cost)])


def nested_flags(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    rule: Rule,
    value: float,
    prevalence: float | None = None,
) -> NDArray[np.bool_]:
    """Flags the images of each fold by the threshold that the other folds choose.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], larger means more likely positive.
      folds: [N].
      rule: see `choose`.
      value: see `choose`.
      prevalence: see `choose`.

    Returns:
      [N]; the rates of these flags are not flattered by choosing the threshold on the images that are judged.

    Raises:
      metrics.UndefinedMetricError: a single fold, or only one class beside one.
    """
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    flagged = np.zeros(len(y), bool)
    for _, own in nesting.each_fold(folds, "a nested threshold"):
        flagged[own] = s[own] >= choose(y[~own], s[~own], rule, value, prevalence)
    return flagged


def performance(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    clusters: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, intervals.Interval]:
    """Returns what a threshold does, with patient-clustered intervals.

    Args:
      labels: [N] in {0, 1}.
      scores: [N].
      threshold: images at or above it are flagged.
      clusters: [N], patient of each image.
      replicates: number of resamples.
      seed: seed of the resampling.

    Returns:
      `sensitivity`, `specificity`, `positive_predictive_value`, `negative_predictive_value`, `flagged` (share of all
      images); NaN where undefined.
    """
    y, flagged = np.asarray(labels) == 1, np.asarray(scores, np.float64) >= threshold
    parts = {
        "sensitivity": (y & flagged, y),
        "specificity": (~y & ~flagged, ~y),
        "positive_predictive_value": (y & flagged, flagged),
        "negative_predictive_value": (~y & ~flagged, ~flagged),
        "flagged": (flagged, np.ones(len(y), bool)),
    }
    return intervals.rates(parts, clusters, replicates=replicates, seed=seed)


@dataclasses.dataclass(frozen=True)
class DecisionCurve:
    """Net benefit per image by threshold probability (Vickers & Elkin 2006).

    Attributes:
      thresholds: [T], probabilities at which one would biopsy.
      model: [T], net benefit of biopsying what the model flags.
      treat_all: [T], that of biopsying everything; biopsying nothing has none.
    """

    thresholds: Floats
    model: Floats
    treat_all: Floats


def decision_curve(
    labels: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike, prevalence: float | None = None
) -> DecisionCurve:
    """Returns the net benefit, true positives less false ones weighted by the odds of the threshold, per image.

    Args:
      labels: [N] in {0, 1}.
      probabilities: [N], calibrated, at `prevalence`.
      thresholds: [T] in (0, 1).
      prevalence: share of positives for which images are weighted; None for that of the data.
    """
    y, p = metrics.check_inputs(labels, probabilities)
    t = np.asarray(thresholds, np.float64)
    positive, negative = np.sort(p[y == 1]), np.sort(p[y == 0])
    found = len(positive) - np.searchsorted(positive, t)
    alarms = len(negative) - np.searchsorted(negative, t)
    share = len(positive) / len(y) if prevalence is None else prevalence
    odds = (1 - share) * t / (1 - t)
    return DecisionCurve(t, share * found / len(positive) - odds * alarms / len(negative), share - odds)


@dataclasses.dataclass(frozen=True)
class ReferSet:
    """Images between two thresholds are referred to a person.

    Attributes:
      low: images below it are called benign.
      high: images at or above it are called malignant.
      sensitivity: guaranteed lower limit of the expected share of positives that are not called benign.
      specificity: guaranteed lower limit of the expected share of negatives that are not called malignant.
      referred: share of the images that are referred.
    """

    low: float
    high: float
    sensitivity: float
    specificity: float
    referred: float


def refer_set(labels: ArrayLike, scores: ArrayLike, sensitivity: float, specificity: float) -> ReferSet:
    """Chooses two thresholds by conformal risk control (Angelopoulos et al. 2024).

    On new images that are exchangeable with these, the expected share of positives called benign is at most
    1 - sensitivity and that of negatives called malignant at most 1 - specificity. Images of one patient and of another
    hospital are not quite exchangeable: the guarantee is for images drawn as these were.

    Args:
      labels: [N] in {0, 1}.
      scores: [N], of images that the model was not fitted on.
      sensitivity: in (0, 1).
      specificity: in (0, 1).

    Raises:
      metrics.UndefinedMetricError: only one class, or too few images of one for the guarantee.
    """
    y, s = metrics.check_inputs(labels, scores)
    low = _risk_controlled(s[y == 1], 1 - sensitivity, "positives")
    high = -_risk_controlled(-s[y == 0], 1 - specificity, "negatives")
    high = float(np.nextafter(high, np.inf))  # at or above it, where the other is below
    high = max(low, high)
    return ReferSet(low, high, sensitivity, specificity, float(np.mean((s >= low) & (s < high))))


def _risk_controlled(scores: Floats, risk: float, name: str) -> float:
    """The highest threshold with (number of scores below it + 1) / (N + 1) <= risk."""
    allowed = int(np.floor(risk * (len(scores) + 1) + 1e-9)) - 1
    if allowed < 0:
        raise metrics.UndefinedMetricError(
            f"a risk of at most {risk:.3g} needs {int(np.ceil(1 / risk)) - 1} {name}, got {len(scores)}"
        )
    return float(np.sort(scores)[allowed]) if allowed < len(scores) else np.inf


def probability(threshold: float) -> float:
    """Returns the probability of a threshold on logits."""
    return float(special.expit(threshold))
