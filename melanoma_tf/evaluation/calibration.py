"""Calibration: how far predicted probabilities are from observed frequencies, and maps that correct them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression

from melanoma_tf.evaluation import metrics, nesting

Floats = NDArray[np.float64]
Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
_LOGIT_LIMIT = 40.0  # probabilities of 0 and 1 have logits beyond all others (37 at 1 - 1e-16), not infinite ones


def logit(probabilities: ArrayLike) -> Floats:
    """Returns the logits of probabilities, limited to +-40."""
    return np.clip(special.logit(np.asarray(probabilities, np.float64)), -_LOGIT_LIMIT, _LOGIT_LIMIT)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability curve on bins of equal mass.

    Attributes:
      predicted: [B], mean predicted probability of each bin.
      observed: [B], share of positives of each bin.
      count: [B], images of each bin.
    """

    predicted: Floats
    observed: Floats
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error of the positive class: mean |observed - predicted|, weighted by images."""
        return float(np.average(np.abs(self.observed - self.predicted), weights=self.count))


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> Reliability:
    """Returns the reliability curve; equal probabilities share a bin, empty bins are left out.

    Args:
      labels: [N] in {0, 1}.
      probabilities: [N] in [0, 1].
      bins: number of bins, each of about N / bins images.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    edges = np.percentile(p, np.linspace(0, 1, bins + 1) * 100)
    which = np.searchsorted(edges[1:-1], p)
    count = np.bincount(which, minlength=bins)
    full = count > 0
    return Reliability(
        np.bincount(which, p, bins)[full] / count[full], np.bincount(which, y, bins)[full] / count[full], count[full]
    )


def brier(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Brier score and its parts: score = miscalibration - discrimination + uncertainty.

    The parts are those of the optimal monotone recalibration (CORP; Dimitriadis, Gneiting & Jordan 2021), free of bins.

    Args:
      labels: [N] in {0, 1}.
      probabilities: [N] in [0, 1].

    Returns:
      `score`, `miscalibration`, `discrimination`, `uncertainty`, and `skill`, the score relative to predicting the
      prevalence, 1 is perfect.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    score = float(np.mean((p - y) ** 2))
    recalibrated = IsotonicRegression(y_min=0, y_max=1).fit_transform(p, y)
    best, uncertainty = float(np.mean((recalibrated - y) ** 2)), float(y.mean() * (1 - y.mean()))
    return {
        "score": score,
        "miscalibration": score - best,
        "discrimination": uncertainty - best,
        "uncertainty": uncertainty,
        "skill": 1 - score / uncertainty if uncertainty else np.nan,
    }


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Mean negative log-likelihood, from logits, so that no probability is rounded to 0 or 1."""
    y, z = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0, z) - y * z))


def slope_and_intercept(labels: ArrayLike, logits: ArrayLike) -> tuple[float, float]:
    """Calibration slope, and intercept in the large (Cox 1958; Van Calster et al. 2019).

    Args:
      labels: [N] in {0, 1}.
      logits: [N].

    Returns:
      The slope of a logistic regression on the logits (1 is ideal, below it predictions are too extreme), and the
      intercept of one whose slope is fixed at 1 (0 is ideal, above it risks are underestimated).
    """
    slope = _fit_logistic(labels, logits, slope=True, intercept=True, monotone=False)[0]
    return slope, _fit_logistic(labels, logits, slope=False, intercept=True)[1]


@dataclasses.dataclass(frozen=True)
class Calibrator:
    """A monotone map from logits to calibrated logits.

    Attributes:
      method: how it was fitted.
      slope: factor of the logit.
      intercept: added to it.
      x: [K], logits at the knots of an isotonic map, else empty.
      y: [K], probabilities there.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __call__(self, logits: ArrayLike) -> Floats:
        """Returns calibrated logits [N]."""
        z = np.asarray(logits, np.float64)
        if self.method == "isotonic":
            return logit(np.interp(z, self.x, self.y))
        return self.slope * z + self.intercept

    @property
    def is_constant(self) -> bool:
        """Whether all logits become one, which those do that say nothing."""
        return len(set(self.y)) < 2 if self.method == "isotonic" else self.slope == 0

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Calibrator:
        """Reads what `to_json` returned.

        Raises:
          ValueError: it is not a calibrator.
        """
        try:
            made = cls(**{**found, "x": tuple(found["x"]), "y": tuple(found["y"])})
            numbers = np.array([made.slope, made.intercept, *made.x, *made.y], np.float64)
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"no calibrator: {found!r}") from None
        knots = len(made.x) == len(made.y) and (len(made.x) > 0) == (made.method == "isotonic")
        if made.method not in METHODS or not knots or not np.isfinite(numbers).all() or made.slope < 0:
            raise ValueError(f"no calibrator: {found!r}")
        return made


def fit(method: Method, labels: ArrayLike, logits: ArrayLike) -> Calibrator:
    """Fits a calibrator by maximum likelihood.

    Args:
      method: `temperature` scales logits (Guo et al. 2017), `platt` also shifts them, which a model needs whose loss
        or sampling changed the prevalence (focal loss, oversampling); `isotonic` is any monotone map, for many
        positives.
      labels: [N] in {0, 1}.
      logits: [N].

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`.
    """
    y, z = metrics.check_inputs(labels, logits)
    if method == "isotonic":
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(z, y)
        return Calibrator("isotonic", x=tuple(model.X_thresholds_.tolist()), y=tuple(model.y_thresholds_.tolist()))
    return Calibrator(method, *_fit_logistic(y, z, slope=True, intercept=method == "platt"))


def _fit_logistic(
    labels: ArrayLike, logits: ArrayLike, *, slope: bool, intercept: bool, monotone: bool = True
) -> tuple[float, float]:
    """Maximum likelihood of slope (>= 0 if monotone) and intercept, of which those not asked for are 1 and 0."""
    y, z = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    # So that both parameters are of one size, and do not depend on one another.
    scale, middle = float(z.std()) or 1.0, float(z.mean()) if slope and intercept else 0.0
    z = z - middle
    free = np.array([slope, intercept])

    def value(parameters: Floats) -> tuple[float, Floats]:
        a, b = parameters
        margin = a / scale * z + b
        residual = special.expit(margin) - y
        return float(np.mean(np.logaddexp(0, margin) - y * margin)), np.array(
            [np.mean(residual * z / scale), np.mean(residual)]
        )

    least = 0 if monotone else None
    bounds = [(least if slope else scale, None if slope else scale), (None, None) if intercept else (0, 0)]
    found = optimize.minimize(
        value, [scale, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10}
    )
    a, b = np.where(free, found.x, [scale, 0.0])
    return float(a / scale), float(b - a / scale * middle)


def fit_nested(method: Method, labels: ArrayLike, logits: ArrayLike, folds: ArrayLike) -> dict[int, Calibrator]:
    """Returns for each fold a map that is fitted to the others.

    Args:
      method: see `fit`.
      labels: [N] in {0, 1}.
      logits: [N], out of fold.
      folds: [N].

    Raises:
      metrics.UndefinedMetricError: a single fold, or only one class beside one.
    """
    y, z = np.asarray(labels), np.asarray(logits, np.float64)
    return {name: fit(method, y[~own], z[~own]) for name, own in nesting.each_fold(folds, "calibration")}


def apply_nested(calibrators: Mapping[int, Calibrator], logits: ArrayLike, folds: ArrayLike) -> Floats:
    """Returns logits [N] by the models of folds [N], each calibrated by the map of its fold, if there is one."""
    found, fold = np.array(logits, np.float64), np.asarray(folds)
    for name, calibrator in calibrators.items():
        found[fold == name] = calibrator(found[fold == name])
    return found


def nested(method: Method, labels: ArrayLike, logits: ArrayLike, folds: ArrayLike) -> Floats:
    """Calibrates each fold by a map fitted to the others; see `fit_nested`. Returns calibrated logits [N]."""
    return apply_nested(fit_nested(method, labels, logits, folds), logits, folds)


def at_prevalence(logits: ArrayLike, prevalence: float, wanted: float) -> Floats:
    """Shifts calibrated logits from one prevalence to another (Saerens, Latinne & Decaestecker 2002).

    Args:
      logits: [N].
      prevalence: share of positives where they are calibrated.
      wanted: share of positives where they will be used.
    """
    return np.asarray(logits, np.float64) + special.logit(wanted) - special.logit(prevalence)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Positive and negative predictive value at a prevalence, by Bayes' theorem."""
    flagged = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    return (
        flagged[0] / sum(flagged) if sum(flagged) else np.nan,
        passed[1] / sum(passed) if sum(passed) else np.nan,
    )
