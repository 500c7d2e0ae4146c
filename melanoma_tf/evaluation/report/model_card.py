"""model_card.md: the figures of metrics.json for people who decide whether to use a model, with what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from melanoma_tf.evaluation.report.page import NAMES, USE, interval, method, number, resampled, rule, signed

_MISSING = "**missing**: to be filled in by the author"
# What TRIPOD+AI (Collins et al. 2024) and CLEAR Derm (Daneshjou et al. 2022) ask for and no figure of a run can answer.
_ASKED = {
    "Intended use and users": _MISSING,
    "Setting, dates and eligibility of the images": _MISSING,
    "Cameras and dermatoscopes, image acquisition": _MISSING,
    "How diagnoses were made (share confirmed by histology)": _MISSING,
    "Skin types": "**missing**: not recorded in ISIC 2020; performance on dark skin is unknown. Classes of skin tone "
    "above, if any, are estimated from colors of the image, with a large error",
    "Ethics approval, consent and data availability": _MISSING,
    "Comparison with clinicians": _MISSING,
    "External validation in another hospital": _MISSING,
    "Conflicts of interest and funding": _MISSING,
}


def make(title: str, results: Mapping[str, Any]) -> str:
    """Makes the card in Markdown.

    Args:
      title: name of what was evaluated.
      results: the contents of metrics.json.
    """
    point = results["operating_point"]
    lines = [f"# {plain(title)}", "", USE, ""]
    counts = f"{results['images']:,} images" + f" of {results['patients']:,} patients" * results["patients_known"]
    lines.append(f"- {counts}, {results['positives']:,} melanomas")
    lines += [f"- **warning**: {plain(warning)}" for warning in results["warnings"]]
    lines += ["", "## Performance", "", f"| figure | value | 95% interval, {resampled(results)} |", "|---|---|---|"]
    lines += [f"| {NAMES[k]} | {number(v['value'])} | {interval(v)} |" for k, v in results["metrics"].items()]
    base = results.get("floor", {})
    if base.get("auc"):
        names = ", ".join(base["features"]).replace("_", " ")
        lines.append(
            f"| floor: AUC without pixels, from {names} | {number(base['auc']['value'])} | {interval(base['auc'])} |"
        )
        lines.append(
            f"| what the model adds to it | {number(base['model_adds']['value'])} | {interval(base['model_adds'])} |"
        )
    for stage in ("before", "after"):
        if stage in results["calibration"]:
            found = results["calibration"][stage]
            lines.append(f"| Brier score {stage} calibration | {number(found['brier']['score'], 4)} | |")
            lines.append(f"| calibration slope {stage} calibration | {number(found['slope'])} | |")
    threshold = f"With a threshold for {rule(point)} (probability {number(point['probability'], 4)}):"
    lines += ["", *method(results), "", threshold, ""]
    lines += ["| figure | value | 95% interval |", "|---|---|---|"]
    for name in ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value", "flagged"):
        lines.append(f"| {NAMES[name]} | {number(point[name]['value'])} | {interval(point[name])} |")
    lines += _decided(point)
    for what, members in results["subgroups"].items():
        lines += [
            "",
            f"## By {what}",
            "",
            f"| {what} | images | melanomas | AUC | sensitivity |",
            "|---|---|---|---|---|",
        ]
        for name, each in members.items():
            figures = [
                "too few" if each[key] is None else f"{number(each[key]['value'])} ({interval(each[key])})"
                for key in ("auc", "sensitivity")
            ]
            lines.append(f"| {plain(name)} | {each['images']:,} | {each['positives']:,} | {' | '.join(figures)} |")
    if "stress" in results:
        lines += ["", "## Under corruptions of the images", "", *_stress(results["stress"])]
    lines += [
        "",
        "## What the reporting guidelines ask for",
        "",
        "TRIPOD+AI and CLEAR Derm; items that no run can answer. tripod_ai.md has the others.",
        "",
    ]
    lines += ["| item | answer |", "|---|---|", *(f"| {item} | {answer} |" for item, answer in _ASKED.items())]
    return "\n".join(lines) + "\n"


def _decided(point: Mapping[str, Any]) -> list[str]:
    """Paragraphs on the choice of the threshold and on another prevalence."""
    lines: list[str] = []
    nested, there = point["nested"], point["at_prevalence"]
    if nested:
        values = ", ".join(f"{name} {number(found['value'])}" for name, found in nested.items())
        lines += ["", f"The threshold was chosen on these predictions; where the other folds choose it: {values}."]
    if there["stated"]:
        names = ("positive_predictive_value", "negative_predictive_value")
        values = ", ".join(f"{NAMES[name]} {number(there[name])}" for name in names)
        lines += ["", f"At a prevalence of {there['prevalence']:.2%}: {values}."]
    return lines


def _stress(found: Mapping[str, Any]) -> list[str]:
    """The level of each kind of corruption with the lowest AUC."""
    worst: dict[str, Mapping[str, Any]] = {}
    for each in found["effects"]:
        if each["corruption"] not in worst or each["auc"] < worst[each["corruption"]]["auc"]:
            worst[each["corruption"]] = each
    counts = f"{found['images']:,} images, {found['positives']:,} melanomas"
    lines = [
        f"{counts}; AUC {number(found['clean']['auc'])} as they are. The worst severity of each kind:",
        "",
        "| corruption | severity | AUC | difference, 95% interval | melanomas whose decision flips |",
        "|---|---|---|---|---|",
    ]
    for name, each in worst.items():
        gap = f"{signed(each['difference']['value'])} ({interval(each['difference'])})"
        flips = number(each["flipped_positives"]["value"])
        lines.append(f"| {name} | {each['severity']} | {number(each['auc'])} | {gap} | {flips} |")
    return lines


# What Markdown, and the HTML in it, would read as markup.
_MARKUP: dict[str, str | int | None] = {
    **{character: f"\\{character}" for character in "\\`*_{}[]()#|~"},
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}


def plain(text: str) -> str:
    """Returns text that Markdown reads as text, on one line."""
    return " ".join(text.translate(str.maketrans(_MARKUP)).split())
