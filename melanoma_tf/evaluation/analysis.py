"""All figures of a table of predictions, as metrics.json holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from melanoma_tf.evaluation import (
    calibration,
    floor,
    intervals,
    metrics,
    operating_point,
    predictions,
    subgroups,
)
from tfrecord_tools.core import text

Progress = Callable[[str], None]
_SCALES_DIFFER = 0.01  # of AUC, between pooling logits and pooling ranks within folds
_FLOOR_FOLDS = 5  # more folds cost more and say no more
_TOP = 15  # images of a patient that a reader looks at, as in ISIC 2024
_GROUPS_SHOWN = 12  # of image sizes and sources
SKIN_TONE = "skin tone (estimated)"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
      rule: how the operating point is chosen, see `operating_point.choose`.
      value: of the rule.
      method: calibration method, see `calibration.fit`.
      prevalence: share of melanoma for which decisions are evaluated, or None for that of the data.
      refer: guaranteed (sensitivity, specificity) of the refer set.
      replicates: resamples of each interval.
      allow_leakage: whether folds may share patients.
    """

    rule: operating_point.Rule = "sensitivity"
    value: float = 0.9
    method: calibration.Method = "platt"
    prevalence: float | None = None
    refer: tuple[float, float] = (0.95, 0.9)
    replicates: int = 2000
    allow_leakage: bool = False


def analyze(
    table: pd.DataFrame, options: Options | None = None, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Computes every figure that the table has the columns for.

    Args:
      table: a checked table, see `predictions`.
      options: what is asked for.
      progress: called with the name of each part before it starts.

    Returns:
      The contents of metrics.json.

    Raises:
      metrics.UndefinedMetricError: only one class.
      predictions.PredictionsError: folds share patients.
    """
    asked = options or Options()
    table = table.assign(patient=predictions.patients(table))
    shared = check_leakage(table, asked.allow_leakage)
    results: dict[str, Any] = {
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "positives": int(table["target"].sum()),
        "patients_known": bool(table["patient_id"].notna().any()),
        "out_of_fold": bool((table["fold"] != predictions.NO_FOLD).all())
        and not (shared or table.attrs.get("folds_assumed")),
        "replicates": asked.replicates,
        "warnings": _warnings(table, shared),
    }
    progress("discrimination")
    results |= discrimination(table, asked)
    if results.get("scales_differ"):
        results["warnings"].append("the models of different folds have scales of their own: trust the AUC of each fold")
    if (table["fold"] == predictions.NO_FOLD).all():
        results["warnings"].append("no folds are known: no floor, and nothing is calibrated")
    elif table["fold"].nunique() > 1:
        progress("floor")
        try:
            results["floor"] = pixel_free_floor(table, asked)
        except metrics.UndefinedMetricError as error:
            results["warnings"].append(f"no floor: {error}")
    progress("calibration")
    logits, results["calibration"] = calibrated(table, asked)
    progress("operating point")
    probable = "calibrator" in results["calibration"] or "before" in results["calibration"]
    results["operating_point"] = decide(table, logits, asked, probable)
    progress("subgroups")
    flagged = logits >= results["operating_point"]["threshold"]
    results["subgroups"] = by_subgroup(table, flagged, asked)
    return results


def check_leakage(table: pd.DataFrame, allowed: bool) -> list[str]:
    """Returns the patients with images in two folds. Raises PredictionsError if there are any, unless allowed."""
    shared = predictions.shared_patients(table)
    if shared and not allowed:
        named = ", ".join(text.shown(patient) for patient in shared[:3])
        raise predictions.PredictionsError(
            f"{len(shared):,} patients have images in two folds, e.g. {named}: a model was trained on patients that it "
            "is judged on; --allow_leakage reports anyway and says so"
        )
    return shared


def _warnings(table: pd.DataFrame, shared: list[str]) -> list[str]:
    found = []
    if shared:
        found.append(f"{len(shared):,} patients have images in two folds: every figure is too good")
    if unknown := int(table["patient_id"].isna().sum()):
        who = "no patient is known" if unknown == len(table) else f"{unknown:,} images are of unknown patients"
        found.append(f"{who}: intervals take their images as independent, and are too narrow")
    if left_out := table.attrs.get("left_out"):
        found.append(f"{left_out:,} images of fold {predictions.NO_FOLD} are left out, because the others have folds")
    if table.attrs.get("folds_assumed"):
        found.append(
            "the folds are those of the metadata, and nothing says that the model was trained by them: if it was, add "
            "a column fold to the predictions"
        )
    if table["probability"].isna().any():
        found.append("predictions are no probabilities in [0, 1]: before calibration they are scores only")
    return found


def discrimination(table: pd.DataFrame, asked: Options) -> dict[str, Any]:
    """Returns metrics of the ranking with intervals, pooled, by fold and by source."""
    y, z, patient = table["target"].to_numpy(), table["logit"].to_numpy(), table["patient"].to_numpy()
    ranking = intervals.ranking_statistics(y, z)
    drawn = intervals.bootstrap(ranking, patient, replicates=asked.replicates)
    found = {name: dataclasses.asdict(intervals.percentile(values)) for name, values in drawn.items()}
    if table["patient"].value_counts().iloc[0] > _TOP:  # else all are among them
        parts = {"top": ((y == 1) & metrics.in_top(z, patient, _TOP), y == 1)}
        top = intervals.rates(parts, patient, replicates=asked.replicates)["top"]
        found["top_15_sensitivity"] = dataclasses.asdict(top)
    few = min(table.loc[table["target"] == label, "patient"].nunique() for label in (0, 1)) < 2
    if few:
        found = {name: {**values, "low": np.nan, "high": np.nan} for name, values in found.items()}
    results: dict[str, Any] = {
        "auc": found["auc"],
        "metrics": found,
        "roc": _thinned(metrics.Ranking(y, z).curve()),
        "auc_per_fold": _auc_by(table, "fold"),
        "auc_per_source": _auc_by(table, "source") if "source" in table else {},
    }
    if few:
        results["no_interval"] = "an interval needs images of both classes of at least two patients"
    folds = table.groupby("fold")["logit"]
    if folds.ngroups > 1:
        ranks = (folds.rank() - 0.5) / folds.transform("size")
        results["auc_of_ranks_within_folds"] = metrics.auc(y, ranks)
        if abs(results["auc_of_ranks_within_folds"] - found["auc"]["value"]) > _SCALES_DIFFER:
            results["scales_differ"] = True
    return results


def _thinned(curve: metrics.Curve) -> dict[str, list[float]]:
    """About 150 points of a ROC curve, as far apart as possible."""
    x, y = curve.false_positive_rate[0], curve.sensitivity[0]
    along = np.r_[0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))]
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], 150)).clip(max=len(along) - 1))
    return {"false_positive_rate": x[kept].tolist(), "sensitivity": y[kept].tolist()}


def _auc_by(table: pd.DataFrame, column: str) -> dict[str, float]:
    """AUC within each value of a column that has both classes."""
    return {
        str(value): metrics.auc(part["target"], part["logit"])
        for value, part in table.groupby(column)
        if part["target"].nunique() > 1
    }


def pixel_free_floor(table: pd.DataFrame, asked: Options) -> dict[str, Any]:
    """Returns AUCs without pixels, what the model adds to the best of them, and AUCs within sizes and sources."""
    y, patient = table["target"].to_numpy(), table["patient"].to_numpy()
    folds = np.unique(table["fold"], return_inverse=True)[1] % _FLOOR_FOLDS
    columns = floor.features(table)
    sets = {name: [c for c in names if c in columns] for name, names in floor.SETS.items()}
    sets = {name: kept for name, kept in sets.items() if kept and len(kept) == len([*floor.SETS[name]])}
    results: dict[str, Any] = {"without_pixels": {}, "within": {}}
    everything = columns.to_numpy()
    if everything.shape[1]:
        for name, kept in sets.items():
            results["without_pixels"][name] = metrics.auc(y, floor.out_of_fold(columns[kept], y, folds))
        alone = floor.out_of_fold(everything, y, folds)
        both = floor.stacked(table["logit"], everything, y, folds, scales=table["fold"])
        base, with_model = metrics.Ranking(y, alone), metrics.Ranking(y, both)

        def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
            # Out of fold, what says nothing comes out below one half.
            lower = np.maximum(metrics.area(base.curve(weights)), 0.5)
            upper = metrics.area(with_model.curve(weights))
            return {"auc": lower, "auc_with_model": upper, "model_adds": upper - lower}

        drawn = intervals.bootstrap(statistics, patient, replicates=asked.replicates)
        results |= {name: dataclasses.asdict(intervals.percentile(values)) for name, values in drawn.items()}
        results["features"] = list(columns)
    if {"width", "height"} <= set(table):
        size = _image_size(table)
        if size.nunique() > 1:
            results["within"]["image size"] = _within(table.assign(group=size))
    if "source" in table and table["source"].nunique() > 1:
        results["within"]["source"] = _within(table.assign(group=table["source"]))
    return results


def _image_size(table: pd.DataFrame) -> pd.Series:
    """Width x height of each image in pixels; None where unknown."""
    sides = [table[side].astype("Int64").astype(str) for side in ("width", "height")]
    return (sides[0] + " x " + sides[1]).where(table["width"].notna() & table["height"].notna(), None)


def _within(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Images, positives and AUC of the largest groups."""
    sizes = table["group"].value_counts()
    found = {}
    for name in sizes.index[:_GROUPS_SHOWN]:
        part = table[table["group"] == name]
        few = min(part["target"].sum(), (1 - part["target"]).sum()) < subgroups.MIN_PATIENTS
        value = None if few else metrics.auc(part["target"], part["logit"])
        found[str(name)] = {"images": len(part), "positives": int(part["target"].sum()), "auc": value}
    return found


def calibrated(table: pd.DataFrame, asked: Options) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns calibrated out-of-fold logits [N] and figures before and after calibration.

    Where a fold cannot be calibrated by others, the logits stay as they are.
    """
    y, z, fold = (table[name].to_numpy() for name in ("target", "logit", "fold"))
    results: dict[str, Any] = {}
    if not table["probability"].isna().any():
        results["before"] = _calibration_figures(y, z)
    try:
        logits = calibration.nested(asked.method, y, z, fold)
    except metrics.UndefinedMetricError as error:
        return z, results | {"none": f"not calibrated: {error}"}
    results["after"] = _calibration_figures(y, logits)
    results["calibrator"] = calibration.fit(asked.method, y, z).to_json()
    return logits, results


def _calibration_figures(y: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    probabilities = 1 / (1 + np.exp(-logits))
    curve = calibration.reliability(y, probabilities)
    slope, intercept = calibration.slope_and_intercept(y, logits)
    return {
        "brier": calibration.brier(y, probabilities),
        "log_loss": calibration.log_loss(y, logits),
        "slope": slope,
        "intercept": intercept,
        "error": curve.error,
        "curve": {name: values.tolist() for name, values in dataclasses.asdict(curve).items()},
    }


def decide(table: pd.DataFrame, logits: np.ndarray, asked: Options, probable: bool) -> dict[str, Any]:
    """Returns the operating point, what it does at a prevalence, the decision curve there and the refer set.

    Args:
      table: a checked table.
      logits: [N].
      asked: what is asked for.
      probable: whether the logits are of probabilities; scores have no decision curve.
    """
    y, patient = table["target"].to_numpy(), table["patient"].to_numpy()
    threshold = operating_point.choose(y, logits, asked.rule, asked.value, asked.prevalence)
    found = operating_point.performance(y, logits, threshold, patient, replicates=asked.replicates)
    data = float(y.mean())
    prevalence = data if asked.prevalence is None else asked.prevalence
    shift = float(calibration.at_prevalence(0.0, data, prevalence))
    sensitivity, specificity = found["sensitivity"].value, found["specificity"].value
    positive, negative = calibration.predictive_values(sensitivity, specificity, prevalence)
    likely = probable and np.isfinite(threshold)
    results: dict[str, Any] = {
        "rule": asked.rule,
        "value": asked.value,
        "threshold": threshold,
        "probability": operating_point.probability(threshold) if likely else None,
        **{name: dataclasses.asdict(interval) for name, interval in found.items()},
        "nested": _nested(table, asked),
        "at_prevalence": {
            "prevalence": prevalence,
            "stated": asked.prevalence is not None,
            "probability": operating_point.probability(threshold + shift) if likely else None,
            "flagged": prevalence * sensitivity + (1 - prevalence) * (1 - specificity),
            "positive_predictive_value": positive,
            "negative_predictive_value": negative,
        },
    }
    results["decision_curve"] = None
    if probable:
        # One would biopsy at a risk of a few percent: from 1 in 500 to 1 in 2.
        risks = np.geomspace(0.002, 0.5, 60)
        curve = operating_point.decision_curve(y, special.expit(logits + shift), risks, prevalence)
        results["decision_curve"] = {name: values.tolist() for name, values in dataclasses.asdict(curve).items()}
    try:
        results["refer"] = dataclasses.asdict(operating_point.refer_set(y, logits, *asked.refer))
    except metrics.UndefinedMetricError as error:
        results["refer"] = {"none": str(error)}
    return results


def _nested(table: pd.DataFrame, asked: Options) -> dict[str, Any] | None:
    """Rates where each fold is flagged by the threshold that the others choose; None where they choose none."""
    y, z, fold, patient = (table[name].to_numpy() for name in ("target", "logit", "fold", "patient"))
    try:  # of raw logits: the calibration of the others would not change their order
        flagged = operating_point.nested_flags(y, z, fold, asked.rule, asked.value, asked.prevalence)
    except metrics.UndefinedMetricError:
        return None
    found = operating_point.performance(y, flagged, 1, patient, replicates=asked.replicates)
    return {name: dataclasses.asdict(found[name]) for name in ("sensitivity", "specificity")}


def by_subgroup(table: pd.DataFrame, flagged: np.ndarray, asked: Options) -> dict[str, Any]:
    """Returns the figures of subgroups that the table has columns for; flagged: [N], at the operating point."""
    groups: dict[str, pd.Series] = {}
    if "sex" in table:
        groups["sex"] = table["sex"]
    if "age_approx" in table:
        groups["age"] = subgroups.age_band(table["age_approx"])
    if "anatom_site_general_challenge" in table:
        groups["site"] = table["anatom_site_general_challenge"]
    if "source" in table:
        groups["source"] = table["source"]
    if {"width", "height"} <= set(table):
        groups["image size"] = subgroups.largest(_image_size(table), _GROUPS_SHOWN)
    if "skin_tone" in table:
        groups[SKIN_TONE] = table["skin_tone"]
    groups = {name: values for name, values in groups.items() if values.nunique() > 1}
    found = subgroups.within(
        table["target"], table["logit"], flagged, table["patient"], groups, replicates=min(asked.replicates, 1000)
    )
    return {
        name: {member: dataclasses.asdict(figures) for member, figures in members.items()}
        for name, members in found.items()
    }


def to_json(value: Any) -> Any:
    """Returns a copy for json.dumps: NaN becomes None, NumPy numbers Python's."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
