"""Ensembles: several models' predictions of the same images as one, fitted by nested folds where anything is fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import threadpoolctl
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from melanoma_tf.evaluation import calibration, intervals, metrics, nesting, predictions

Floats = NDArray[np.float64]
Method = Literal["mean", "mean_probability", "rank", "weights", "stack"]
Stacker = Literal["logistic", "boosting"]
FITTED = ("weights", "stack")
MISSING = "missing"  # a sex or site of its own
_WORDS = ("sex", "anatom_site_general_challenge")
_NUMBERS = ("age_approx",)


def join(tables: Sequence[pd.DataFrame], origins: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Joins predictions of the same images.

    Args:
      tables: checked tables, see `predictions`.
      origins: name of each in messages and results.

    Returns:
      The first table with what the others know of its images, and [N,R], the logits by origin.

    Raises:
      predictions.PredictionsError: they differ in images, targets, folds or metadata.
    """
    joined, logits = tables[0], {origins[0]: tables[0]["logit"]}
    for table, origin in zip(tables[1:], origins[1:], strict=True):
        try:
            same = predictions.same_images(joined, table, (origins[0], origin))
        except predictions.PredictionsError as error:
            raise predictions.PredictionsError(
                f"{error}; expected the images of {origins[0]} and {origin} to be the same: finish the same folds of "
                "both runs, predict the same build with both"
            ) from error
        differ = same["fold"] != joined["fold"]
        if differ.any():
            first = int(np.flatnonzero(differ)[0])
            raise predictions.PredictionsError(
                f"{differ.sum():,} of {len(same):,} images are in other folds in {origin} than in {origins[0]}, e.g. "
                f"{joined['image_name'][first]!r} in fold {same['fold'][first]} and {joined['fold'][first]}; expected "
                f"the same folds ({predictions.NO_FOLD}: none): train all runs on builds with the same folds"
            )
        logits[origin] = same["logit"]
        joined = predictions.with_metadata(joined, same.drop(columns=["fold", "target"]), origin)
    return joined, pd.DataFrame(logits)


def check_scales(method: Method, tables: Sequence[pd.DataFrame], origins: Sequence[str]) -> None:
    """Checks that predictions have the scale that a method averages.

    Raises:
      predictions.PredictionsError: scores that are no probabilities, for a method that is not free of scales.
    """
    for table, origin in zip(tables, origins, strict=True):
        if method not in ("rank", "stack") and table["probability"].isna().any():
            raise predictions.PredictionsError(
                f"{origin}: predictions are scores from {table['logit'].min():g} to {table['logit'].max():g}; --method "
                f"{method} expects logits or probabilities: use --method rank or stack"
            )


def average(method: Method, logits: pd.DataFrame, folds: ArrayLike) -> Floats:
    """Averages without fitting anything.

    Args:
      method: `mean` of the logits, `mean_probability`, or `rank`, the mean of the ranks within run and fold, which is
        free of the scales of their models.
      logits: [N,R].
      folds: [N], fold of the model that made each prediction.

    Returns:
      [N], logits; that of a mean rank (0 to 1) only orders images, it is no log-odds of melanoma.
    """
    if method == "mean":
        return logits.to_numpy(np.float64).mean(axis=1)
    if method == "mean_probability":
        return calibration.logit(special.expit(logits.to_numpy(np.float64)).mean(axis=1))
    of_fold = logits.groupby(np.asarray(folds))
    shares = (of_fold.rank() - 0.5).div(of_fold[logits.columns[0]].transform("size"), axis=0)
    return calibration.logit(shares.mean(axis=1))


def relative_to_patient(logits: pd.DataFrame, patients: ArrayLike) -> pd.DataFrame:
    """How an image stands out among its patient's: the ugly duckling sign.

    A nevus that differs from the others of its patient is suspect (Grob & Bonerandi 1998), which a model that sees one
    image cannot know.

    Args:
      logits: [N,R].
      patients: [N].

    Returns:
      Means over R of `rank_in_patient`, the share of the patient's other images with a lower logit, ties counting one
      half, and `z_in_patient`, the deviation from the patient's mean in standard deviations (of all n, not n - 1).
      An image without others has 0.5 and 0, as one in the middle of many.
    """
    scores = logits.astype(np.float64)
    of_patient = scores.groupby(np.asarray(patients))
    others = of_patient[scores.columns[0]].transform("size") - 1
    rank = (of_patient.rank() - 1).div(others.where(others > 0), axis=0).fillna(0.5)
    # Equal logits deviate from their mean by rounding only.
    differ = of_patient.transform("max") > of_patient.transform("min")
    deviation = (scores - of_patient.transform("mean")) / of_patient.transform("std", ddof=0)
    z = deviation.where(differ, 0.0)
    return pd.DataFrame({"rank_in_patient": rank.mean(axis=1), "z_in_patient": z.mean(axis=1)})


def features(table: pd.DataFrame, logits: pd.DataFrame) -> pd.DataFrame:
    """Returns what a stacker sees of each image.

    Not the number of a patient's images nor their size, which tell how an image was acquired; see `floor`.

    Args:
      table: a checked table.
      logits: [N,R], by origin.

    Returns:
      `logit ORIGIN` for each, those of `relative_to_patient`, age_approx in years (NaN where missing), and sex and
      anatom_site_general_challenge in words (MISSING where missing).
    """
    found = logits.add_prefix("logit ").join(relative_to_patient(logits, predictions.patients(table)))
    for name in _NUMBERS:
        found[name] = pd.to_numeric(table[name]).astype(np.float64) if name in table else np.nan
    for name in _WORDS:
        known = table[name].astype(object) if name in table else pd.Series(None, table.index, dtype=object)
        found[name] = known.where(known.notna(), MISSING)
    return found


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What was fitted to some images.

    Attributes:
      score: from the columns [N,F] of other images to their logits [N].
      coefficients: weights that sum to 1, or changes of the log-odds for a standard deviation of a number or for a
        word; empty where there are none.
    """

    score: Callable[[pd.DataFrame], Floats]
    coefficients: Mapping[str, float]


def fit(method: Method, stacker: Stacker, columns: pd.DataFrame, labels: ArrayLike) -> Fitted:
    """Fits `weights` or a `stack`.

    Args:
      method: one of FITTED.
      stacker: of a stack.
      columns: [N,F], logits for weights, else `features`.
      labels: [N] in {0, 1}.
    """
    y = np.asarray(labels)
    if method == "weights":
        with threadpoolctl.threadpool_limits(1):  # see `floor.out_of_fold`
            weights = _weights(columns.to_numpy(np.float64), y)
        return Fitted(
            lambda new: new.to_numpy(np.float64) @ weights, dict(zip(map(str, columns), weights, strict=True))
        )
    model = _stacker(stacker, columns)
    with threadpoolctl.threadpool_limits(1):
        model.fit(columns, y)

    def score(new: pd.DataFrame) -> Floats:
        with threadpoolctl.threadpool_limits(1):
            return model.decision_function(new)

    names = model[:-1].get_feature_names_out()
    return Fitted(score, dict(zip(names, model[-1].coef_[0], strict=True)) if stacker == "logistic" else {})


def _weights(logits: Floats, labels: ArrayLike) -> Floats:
    """Weights of the runs, >= 0 and of sum 1: stacked regression (Breiman 1996) with the loss of classification.

    Those of a logistic regression with coefficients >= 0 and the ridge of scikit-learn's default, on standardized
    logits. Its log loss is smooth and convex, as the AUC is not.

    Args:
      logits: [N,R].
      labels: [N] in {0, 1}.

    Returns:
      [R]; equal ones where no run is better than chance.
    """
    y, deviation = np.asarray(labels, np.float64), logits.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    x = np.column_stack([(logits - logits.mean(axis=0)) / scale, np.ones(len(y))])
    penalty = np.append(np.ones(len(scale)), 0.0)

    def value(parameters: Floats) -> tuple[float, Floats]:
        margin = x @ parameters
        loss = np.logaddexp(0, margin).sum() - y @ margin + (penalty * parameters**2).sum() / 2
        gradient = x.T @ (special.expit(margin) - y) + penalty * parameters
        return float(loss) / len(y), gradient / len(y)

    bounds = [(0.0, None)] * len(scale) + [(None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    start = np.append(np.ones(len(scale)), 0.0)
    found = optimize.minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    weights = found[:-1] / scale
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(scale), 1 / len(scale))


def _stacker(stacker: Stacker, columns: pd.DataFrame) -> Pipeline:
    numbers = [name for name in columns if name not in _WORDS]
    prepare = ColumnTransformer(
        [
            # A missing age is one of the mean age, with a coefficient of its own.
            ("numbers", make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()),
             numbers),
            ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(_WORDS)),
        ],
        verbose_feature_names_out=False,
    )  # fmt: skip
    if stacker == "logistic":
        return make_pipeline(prepare, LogisticRegression(max_iter=1000))
    trees = HistGradientBoostingClassifier(  # few and shallow ones, as positives are few
        learning_rate=0.05, max_iter=150, max_depth=3, early_stopping=False, random_state=0
    )
    return make_pipeline(prepare, trees)


def out_of_fold(
    method: Method, table: pd.DataFrame, logits: pd.DataFrame, stacker: Stacker = "logistic"
) -> tuple[Floats, pd.DataFrame]:
    """Predicts each fold by an ensemble that is fitted to the others, if it is fitted at all.

    Args:
      method: how predictions become one.
      table: a checked table with folds.
      logits: [N,R], out of fold, by origin.
      stacker: of a stack.

    Returns:
      [N], logits, and a row of coefficients for each fold.

    Raises:
      metrics.UndefinedMetricError: a single fold, or only one class beside one.
    """
    if method not in FITTED:
        return average(method, logits, table["fold"]), pd.DataFrame()
    columns, y = _columns(method, table, logits), table["target"].to_numpy()
    scores, coefficients = np.empty(len(y)), []
    for name, own in nesting.each_fold(table["fold"], f"--method {method}"):
        if len(np.unique(y[~own])) < 2:
            raise metrics.UndefinedMetricError(f"the folds beside {name} have only one class")
        fitted = fit(method, stacker, columns[~own], y[~own])
        scores[own] = fitted.score(columns[own])
        coefficients.append(fitted.coefficients)
    return scores, pd.DataFrame(coefficients).fillna(0.0)  # 0: a word that the other folds have not


def of_new_images(
    method: Method,
    known: tuple[pd.DataFrame, pd.DataFrame],
    new: tuple[pd.DataFrame, pd.DataFrame],
    stacker: Stacker = "logistic",
) -> Floats:
    """Predicts new images by an ensemble that is fitted to all out-of-fold predictions, if it is fitted at all.

    Args:
      method: how predictions become one.
      known: table and logits as `out_of_fold` takes them.
      new: those of the new images, without folds; their patients' other images are those among them.
      stacker: of a stack.

    Returns:
      [M], logits.
    """
    if method not in FITTED:
        return average(method, new[1], new[0]["fold"])
    fitted = fit(method, stacker, _columns(method, *known), known[0]["target"])
    return fitted.score(_columns(method, new[0], new[1].set_axis(known[1].columns, axis=1)))


def _columns(method: Method, table: pd.DataFrame, logits: pd.DataFrame) -> pd.DataFrame:
    return features(table, logits) if method == "stack" else logits


@dataclasses.dataclass(frozen=True)
class Gain:
    """AUCs of runs and of their ensemble.

    Attributes:
      runs: AUC of each, by origin.
      ensemble: its AUC.
      best: origin of the run with the highest AUC.
      difference: AUC of the ensemble less that of the best run, paired.
    """

    runs: Mapping[str, intervals.Interval]
    ensemble: intervals.Interval
    best: str
    difference: intervals.Interval


def gain(table: pd.DataFrame, logits: pd.DataFrame, ensemble: ArrayLike, replicates: int = 2000) -> Gain:
    """Compares an ensemble with its runs, on resamples of patients that are the same for all of them.

    Args:
      table: a checked table.
      logits: [N,R], by origin.
      ensemble: [N].
      replicates: number of resamples.

    Raises:
      metrics.UndefinedMetricError, ValueError: see `metrics.Ranking`.
    """
    y = table["target"]
    rankings = [metrics.Ranking(y, logits[origin]) for origin in logits] + [metrics.Ranking(y, ensemble)]

    def statistics(weights: Floats) -> dict[str, Floats]:
        return {str(k): metrics.area(ranking.curve(weights)) for k, ranking in enumerate(rankings)}

    drawn = [*intervals.bootstrap(statistics, predictions.patients(table), replicates=replicates).values()]
    best = int(np.argmax([values[0] for values in drawn[:-1]]))
    runs = {origin: intervals.percentile(values) for origin, values in zip(map(str, logits), drawn[:-1], strict=True)}
    difference = intervals.percentile(drawn[-1] - drawn[best])
    return Gain(runs, intervals.percentile(drawn[-1]), logits.columns[best], difference)
