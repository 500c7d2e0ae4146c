"""tripod_ai.md: the items of TRIPOD+AI and CLEAR Derm, filled in as far as a run and its figures answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from melanoma_tf.evaluation.analysis import SKIN_TONE
from melanoma_tf.evaluation.report.model_card import plain
from melanoma_tf.evaluation.report.page import interval, number, resampled, rule

Run = Mapping[str, Any]
MISSING = "**missing**: to be filled in by the author"
_LEAD = (
    "Items of TRIPOD+AI (Collins et al. 2024, doi 10.1136/bmj-2023-078378), by its numbers, and of CLEAR Derm "
    "(Daneshjou et al. 2022, doi 10.1001/jamadermatol.2021.4915), in our words: the published checklists are what a "
    "journal asks for. What the figures answer is filled in; check it before it is used."
)
# Item and topic; answers are made by `_answers`, by item.
TRIPOD = (
    ("1", "Title: model developed or evaluated, population, outcome"),
    ("2", "Abstract"),
    ("3a", "Health care context, and why a model"),
    ("3b", "Population, place in care, intended users"),
    ("3c", "Known inequalities between groups of patients"),
    ("4", "Objectives: development, evaluation or both"),
    ("5a", "Sources of data, and how representative they are"),
    ("5b", "Dates of the data"),
    ("6a", "Setting, number and place of centers"),
    ("6b", "Who was eligible"),
    ("6c", "Treatments"),
    ("7", "Preparation and quality control of the data"),
    ("8a", "Outcome, and how it was determined"),
    ("8b", "Who judged the outcome"),
    ("8c", "Blinding of the outcome"),
    ("9a", "Choice of predictors"),
    ("9b", "Predictors, how and when measured"),
    ("9c", "Who judged the predictors"),
    ("10", "Sample size, and how it was arrived at"),
    ("11", "Missing data"),
    ("12a", "How the data were divided"),
    ("12b", "Handling of predictors"),
    ("12c", "Type of model, fitting, tuning, internal validation"),
    ("12d", "Differences between centers, how handled"),
    ("12e", "Measures of performance"),
    ("12f", "Updating, such as recalibration"),
    ("12g", "How predictions were made for evaluation"),
    ("13", "Class imbalance"),
    ("14", "Fairness"),
    ("15", "Output of the model, and thresholds"),
    ("16", "Differences between training and evaluation data"),
    ("17", "Ethics approval and consent"),
    ("18a", "Funding"),
    ("18b", "Conflicts of interest"),
    ("18c", "Protocol"),
    ("18d", "Registration"),
    ("18e", "Availability of the data"),
    ("18f", "Availability of the code"),
    ("19", "Involvement of patients and public"),
    ("20a", "Flow of participants"),
    ("20b", "Characteristics of participants"),
    ("20c", "Training and evaluation data compared"),
    ("21", "Participants and events of each analysis"),
    ("22", "The full model, and how to obtain it"),
    ("23a", "Performance with intervals, also in subgroups"),
    ("23b", "Performance across centers"),
    ("24", "Result of updating"),
    ("25", "Interpretation"),
    ("26", "Limitations"),
    ("27a", "Use where input is poor or absent"),
    ("27b", "What users must do and know"),
    ("27c", "Next steps"),
)
CLEAR_DERM = (
    ("Data", "image types and acquisition: camera, dermatoscope, light"),
    ("Data", "artifacts in images"),
    ("Data", "preprocessing"),
    ("Data", "synthetic images, if any"),
    ("Data", "references of public images"),
    ("Data", "patients: age, sex, site"),
    ("Data", "skin tone, and how it was assessed"),
    ("Data", "possible biases of the data"),
    ("Data", "partitions, and patients across them"),
    ("Data", "sample sizes and class balance"),
    ("Data", "external test data, several devices, images out of distribution"),
    ("Technique", "how labels were made; histopathology of malignancies"),
    ("Technique", "development of the algorithm"),
    ("Technical assessment", "how others can evaluate it"),
    ("Technical assessment", "performance measures, comparison with others"),
    ("Technical assessment", "bias between groups"),
    ("Application", "use cases and target conditions"),
    ("Application", "effects on health care team and patients"),
)


def make(title: str, results: Mapping[str, Any], run: Run | None = None) -> str:
    """Makes the sheet in Markdown.

    Args:
      title: name of what was evaluated.
      results: the contents of metrics.json.
      run: the contents of run.json, for a run of this package.
    """
    answers = _answers(results) | (_of_run(run) if run else {})
    lines = [f"# Reporting sheet: {plain(title)}", "", _LEAD, "", "## TRIPOD+AI", "", "| item | topic | answer |"]
    lines += ["|---|---|---|", *(f"| {item} | {topic} | {answers.get(item, MISSING)} |" for item, topic in TRIPOD)]
    lines += ["", "## CLEAR Derm", "", "| part | topic | answer |", "|---|---|---|"]
    lines += [f"| {part} | {topic} | {answers.get(topic, MISSING)} |" for part, topic in CLEAR_DERM]
    return "\n".join(lines) + "\n"


def _answers(results: Mapping[str, Any]) -> dict[str, str]:
    """Answers that metrics.json has, by TRIPOD+AI item or CLEAR Derm topic."""
    point, auc, base = results["operating_point"], results["auc"], results.get("floor", {})
    patients = f" of {results['patients']:,} patients" if results["patients_known"] else ", patients unknown"
    size = f"{results['images']:,} images{patients}, {results['positives']:,} melanomas"
    there, share = point["at_prevalence"], results["positives"] / results["images"]
    nested = point["nested"]
    rates = [
        f"{name} {number(point[name]['value'])} ({interval(point[name])})"
        + (f", {number(nested[name]['value'])} where the other folds choose the threshold" if nested else "")
        for name in ("sensitivity", "specificity")
    ]
    performance = f"ROC AUC {number(auc['value'])} (95% interval {interval(auc)}, {resampled(results)}); threshold for "
    performance += f"{rule(point)}: {'; '.join(rates)}; metrics.json and report.html have the others"
    floor = ""
    if base.get("auc"):
        floor = f"; without looking at a lesion {number(base['auc']['value'])} is reached, the model adds "
        floor += f"{number(base['model_adds']['value'])} ({interval(base['model_adds'])})"
    groups = ", ".join(results["subgroups"])
    drawn = "patients" if results["patients_known"] else "images"
    division = "Every image was predicted by a model that was trained on other folds"
    division += "; no patient that is known is in two folds" * results["patients_known"]
    people = [name for name in ("sex", "age", "site") if name in results["subgroups"]]
    toned = SKIN_TONE in results["subgroups"]
    moved = f", {number(there['probability'], 4)} at a prevalence of {there['prevalence']:.2%}" * there["stated"]
    found = {
        "12e": "AUC, average precision, partial AUC, sensitivity and specificity, Brier score, calibration slope and "
        f"intercept, net benefit; intervals resample {drawn}, those of rates are Wilson's",
        "13": f"Melanoma is {share:.2%} of the images{_at(there)}",
        "15": f"A probability of melanoma; threshold {number(point['probability'], 4)}{moved}, for {rule(point)}",
        "21": size,
        "23a": performance + floor,
        "sample sizes and class balance": size,
        "performance measures, comparison with others": f"See 23a; comparison: {MISSING}",
        "patients: age, sex, site": f"Known and evaluated: {', '.join(people)}" if people else MISSING,
        "skin tone, and how it was assessed": f"Estimated from images, with a large error: see report.html. {MISSING}"
        if toned
        else MISSING,
    }
    if groups:
        found["14"] = found["bias between groups"] = f"AUC, sensitivity and specificity by {groups}: see report.html"
    if results["out_of_fold"]:
        found["12a"] = found["12g"] = found["partitions, and patients across them"] = division
    if len(results["auc_per_source"]) > 1:
        found["23b"] = "AUC by source: see report.html"
    calibration = results["calibration"]
    if "calibrator" in calibration:
        method = calibration["calibrator"]["method"]
        found["12f"] = f"Recalibration by {method}, fitted to out-of-fold predictions, judged on other folds"
        after = calibration["after"]
        found["24"] = f"Slope {number(after['slope'])}, intercept {number(after['intercept'])} after recalibration"
    if results["warnings"]:
        found["26"] = "; ".join(map(plain, results["warnings"])) + f". {MISSING}"
    return found


def _at(there: Mapping[str, Any]) -> str:
    if not there["stated"]:
        return ""
    values = [number(there[name]) for name in ("positive_predictive_value", "negative_predictive_value")]
    where = f"at a prevalence of {there['prevalence']:.2%}"
    return f"; {where} positive and negative predictive value are {', '.join(values)}"


def _of_run(run: Run) -> dict[str, str]:
    """Answers that run.json has."""
    config = run.get("config", {})
    names = ("model", "weights", "image_size", "loss", "augment", "tta", "epochs", "batch_size", "optimizer", "lr")
    settings = ", ".join(f"{name} {config[name]}" for name in names if name in config)
    sessions = run.get("sessions") or [{}]
    last = sessions[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
    size = config.get("image_size", "?")
    prepared = f"Center crop resampled to {size} x {size} pixels; files that cannot be decoded are quarantined"
    trained = plain(f"Convolutional network: {settings}. Epochs are not chosen by the held-out fold")
    commit = (last.get("git") or {}).get("commit", "unknown")
    code = plain(f"{versions}; commit {commit}") if versions else MISSING
    return {
        "7": prepared,
        "preprocessing": prepared,
        "9a": "The pixels of one image, nothing else",
        "9b": "The pixels of one image, scaled to 0 to 1",
        "12b": "Pixels scaled to 0 to 1, normalized within the model",
        "12c": trained,
        "development of the algorithm": trained,
        "18f": code,
        "how others can evaluate it": code,
        "22": "Weights of each fold (model.weights.h5) with their SHA-256, and run.json, in the run's folder",
    }
