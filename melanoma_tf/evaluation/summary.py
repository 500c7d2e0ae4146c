"""The main figures of metrics.json as lines for a terminal."""

from __future__ import annotations

from typing import Any

from tfrecord_tools.core import text

_SHOWN = 10  # folds and sources


def lines(results: dict[str, Any]) -> list[str]:
    """Returns the main figures of metrics.json as lines."""
    shown = [f"warning: {warning}" for warning in results["warnings"]]
    what = "held out" if results["out_of_fold"] else "predicted"
    patients = f" of {results['patients']} patients" * results["patients_known"]
    shown.append(f"{what}: {results['images']} images{patients}, {results['positives']} malignant")
    for what in ("fold", "source"):
        found = list(results[f"auc_per_{what}"].items())
        if len(found) > 1:
            shown += [f"{what} {text.shown(name)}: AUC {value:.4f}" for name, value in found[:_SHOWN]]
        if len(found) > _SHOWN:
            shown.append(f"and {len(found) - _SHOWN:,} more {what}s: see metrics.json")
    auc, point, base_line = results["auc"], results["operating_point"], results.get("floor", {})
    if "no_interval" in results:
        shown.append(f"AUC {auc['value']:.4f}, without an interval: {results['no_interval']}")
    else:
        shown.append(f"AUC {_interval(auc)}, {'patients' if results['patients_known'] else 'images'} resampled")
    if base_line.get("auc"):
        shown.append(f"floor, without pixels: AUC {base_line['auc']['value']:.4f}")
        shown.append(f"the model adds {_interval(base_line['model_adds'])} to it")
    shown.append(
        f"at {point['rule']} {point['value']:g}: sensitivity {point['sensitivity']['value']:.4f}, "
        f"specificity {point['specificity']['value']:.4f}, {_chosen(point)}"
    )
    if "diagnoses" in results:
        found = results["diagnoses"]
        shown.append(f"balanced accuracy of {len(found['classes'])} diagnoses {_interval(found['balanced_accuracy'])}")
    if "stress" in results:
        worst = min(results["stress"]["effects"], key=lambda each: each["auc"])
        shown.append(
            f"lowest AUC under stress: {worst['auc']:.4f}, {worst['corruption']} ({worst['severity']}), "
            f"difference {_interval(worst['difference'])}"
        )
    return shown


def _chosen(point: dict[str, Any]) -> str:
    """Says that the threshold was chosen on the same predictions, and what it does on folds that did not choose it."""
    if not point["nested"]:
        return "of a threshold that was chosen on these predictions"
    sensitivity, specificity = (point["nested"][name]["value"] for name in ("sensitivity", "specificity"))
    return f"and {sensitivity:.4f} and {specificity:.4f} where the other folds choose it"


def _interval(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['value']:.4f}"
    return f"{found['value']:.4f} ({found['level']:.0%} interval {found['low']:.4f} to {found['high']:.4f})"
