"""report.html: the figures of metrics.json as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from melanoma_tf.evaluation.analysis import SKIN_TONE
from melanoma_tf.evaluation.report import gallery
from tfrecord_tools.html import charts, filters, page
from tfrecord_tools.html.charts import Axis, Series
from tfrecord_tools.html.page import Content, Html, card, note, tag

Figures = Mapping[str, Any]

USE = (
    "For research. Not a medical device: not cleared or approved for diagnosis, triage or any decision about a "
    "patient, and not tested on images taken in another way than those it was evaluated on."
)
NAMES = {
    "auc": "ROC AUC",
    "average_precision": "average precision",
    "partial_auc": "partial AUC above 80% sensitivity (0 to 0.2)",
    "sensitivity_at_specificity_90": "sensitivity at 90% specificity",
    "sensitivity_at_specificity_95": "sensitivity at 95% specificity",
    "specificity_at_sensitivity_90": "specificity at 90% sensitivity",
    "specificity_at_sensitivity_95": "specificity at 95% sensitivity",
    "top_15_sensitivity": "melanomas among the 15 highest of their patient",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "positive_predictive_value": "positive predictive value",
    "negative_predictive_value": "negative predictive value",
    "flagged": "images flagged",
}
_RULES = {
    "sensitivity": "at least {value:.4g} sensitivity",
    "specificity": "at least {value:.4g} specificity",
    "cost": "least cost where a missed melanoma costs {value:g} false alarms",
}
_LEVEL = "95% interval"
_MOST = 20  # rows of a table of folds, sources or the members of a subgroup


def number(value: float | None, digits: int = 3) -> str:
    """Formats a figure; "–" where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.000


def interval(found: Figures | None, digits: int = 3) -> str:
    """Formats the bounds of an interval; "–" where there are none."""
    if not found or found.get("low") is None:
        return "–"
    return f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def make(
    title: str,
    results: Figures,
    errors: Html | None = None,
    choices: filters.Choices | None = None,
    diagnoses: Content | None = None,
) -> str:
    """Makes the page.

    Args:
      title: name of what was evaluated.
      results: the contents of metrics.json.
      errors: gallery of the most confident errors, if images are at hand.
      choices: values of the gallery's images for each filter; only filters that mark its figures are offered.
      diagnoses: what a model of several diagnoses says of each, see `report.classes`.
    """
    marked = {name: values for name, values in (choices or {}).items() if errors and f" data-{name}=" in errors}
    sections: dict[str, Content] = {"Discrimination": list(discrimination(results))}
    if "floor" in results:
        sections["The floor"] = list(floor(results["floor"]))
    sections["Calibration"] = list(calibration(results["calibration"]))
    sections["Decisions"] = list(decisions(results["operating_point"]))
    if diagnoses:
        sections["Diagnoses"] = diagnoses
    if results["subgroups"]:
        sections["Subgroups"] = list(subgroups(results["subgroups"]))
    if "stress" in results:
        sections["Stress"] = list(stress(results["stress"]))
    if errors:
        sections["Most confident errors"] = [filters.controls(marked), errors]
    sections["How it was made"] = [tag("p", line) for line in method(results)]
    links = (tag("a", name, href=f"#{_anchor(name)}") for name in sections)
    body: list[Content] = [
        tag("h1", title),
        [tag("p", text, class_="warning") for text in results["warnings"]],
        tag("p", USE, class_="lead"),
        first_screen(results),
        tag("nav", links, aria_label="Sections"),
    ]
    for name, content in sections.items():
        body += [tag("h2", name, id=_anchor(name)), content]
    return page.document(title, body, charts.STYLE + gallery.STYLE + filters.style(marked))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def first_screen(results: Figures) -> Html:
    """Tiles with what a reader must see first."""
    auc, point, base = results["auc"], results["operating_point"], results.get("floor", {})
    boxes = [("ROC AUC", number(auc["value"]), f"{_LEVEL} {interval(auc)}, {resampled(results)}")]
    if base.get("auc"):
        adds = base["model_adds"]
        boxes += [
            ("floor, without pixels", number(base["auc"]["value"]), ", ".join(base["features"]).replace("_", " ")),
            ("the model adds", f"{adds['value']:+.3f}", f"{_LEVEL} {interval(adds)}"),
        ]
    boxes += [
        (
            "sensitivity",
            number(point["sensitivity"]["value"]),
            f"{_LEVEL} {interval(point['sensitivity'])}; {_chosen(point, 'sensitivity')}",
        ),
        (
            "specificity",
            number(point["specificity"]["value"]),
            f"at the same operating point: {rule(point)}; {_chosen(point, 'specificity')}",
        ),
        (
            "images",
            f"{results['images']:,}",
            f"{results['patients']:,} patients, " * results["patients_known"] + f"{results['positives']:,} melanomas "
            f"({page.percent(results['positives'], results['images'])})",
        ),
    ]
    drawn = (
        tag("div", tag("dt", name), tag("dd", value, tag("small", more)), class_="tile") for name, value, more in boxes
    )
    return tag("dl", drawn, class_="tiles")


def _chosen(point: Figures, name: str) -> str:
    """Returns what qualifies a rate: its threshold was chosen on the same images."""
    if not point["nested"]:
        return "the threshold was chosen on these images"
    return f"{number(point['nested'][name]['value'])} where other folds choose the threshold"


def resampled(results: Figures) -> str:
    """Returns what the intervals resample."""
    return "patients resampled" if results["patients_known"] else "images resampled"


def method(results: Figures) -> list[str]:
    """Returns how the figures were made."""
    what = "whole patients, because images of one patient are not independent"
    what = what if results["patients_known"] else "images, as if they were independent"
    lines = ["Every figure is out of fold: of images that the model which predicts them was not trained on."]
    if not results["out_of_fold"]:
        lines = ["Whether the model was trained on these images, or on others of these patients, is not known here."]
    return [*lines, f"Intervals of metrics resample {what} ({results['replicates']:,} times, percentile bootstrap)."]


def rule(point: Figures) -> str:
    """Returns how the operating point was chosen."""
    return _RULES[point["rule"]].format(value=point["value"])


def discrimination(results: Figures) -> Iterator[Html]:
    """ROC curve, metrics with intervals, and AUCs by fold and source."""
    roc, found = results["roc"], results["metrics"]
    chart = charts.lines(
        "ROC curve",
        [
            Series("chance", [0, 1], [0, 1], "reference"),
            Series("model, all folds pooled", roc["false_positive_rate"], roc["sensitivity"]),
        ],
        Axis("1 − specificity"),
        Axis("sensitivity"),
        f"area {number(results['auc']['value'])}",
    )
    rows = [[NAMES[name], number(values["value"]), interval(values)] for name, values in found.items()]
    cards = [
        card("ROC", chart),
        card("Metrics", page.table(["metric", "value", _LEVEL], rows, class_="wrap")),
    ]
    for what in ("fold", "source"):
        values = results[f"auc_per_{what}"]
        if len(values) > 1:
            text = note(_SCALES) if what == "fold" and results.get("scales_differ") else None
            rows = [[k, number(v)] for k, v in values.items()]
            cards.append(card(f"AUC by {what}", *_table([what, "AUC"], rows), text))
    yield tag("div", cards, class_="cards")


def _table(header: Sequence[Content], rows: Sequence[Sequence[Content]]) -> list[Html]:
    """A table of at most 20 rows, and a note on the others."""
    found = [page.table(header, rows[:_MOST])]
    return [*found, note(f"and {len(rows) - _MOST:,} more: see metrics.json")] if len(rows) > _MOST else found


def floor(found: Figures) -> Iterator[Html]:
    """AUCs without pixels, and within sizes and sources."""
    yield tag("p", _FLOOR, class_="lead")
    cards = []
    if found.get("without_pixels"):
        rows = [[name, number(value)] for name, value in found["without_pixels"].items()]
        rows += [["all of them and the model", number(found["auc_with_model"]["value"])]]
        cards.append(card("Without one pixel", page.table(["from", "AUC"], rows, class_="wrap"), note(_OUT_OF_FOLD)))
    if found.get("pixels"):
        rows = [[name, number(value)] for name, value in found["pixels"].items()]
        cards.append(card("Without a lesion", page.table(["from", "AUC"], rows, class_="wrap"), note(_OUT_OF_FOLD)))
    for what, groups in found.get("within", {}).items():
        rows = [
            [name, f"{values['images']:,}", f"{values['positives']:,}", number(values["auc"])]
            for name, values in groups.items()
        ]
        cards.append(
            card(f"Model within one {what}", page.table([what, "images", "melanomas", "AUC"], rows), note(_FEW))
        )
    yield tag("div", cards, class_="cards")


def calibration(found: Figures) -> Iterator[Html]:
    """Reliability curves and figures, before and after calibration."""
    stages = [(name, found[name]) for name in ("before", "after") if name in found]
    if "none" in found:
        yield note(found["none"])
    if not stages:
        return
    top = max(max(stage["curve"]["predicted"] + stage["curve"]["observed"]) for _, stage in stages)
    low = min([v for _, s in stages for v in s["curve"]["predicted"] + s["curve"]["observed"] if v > 0], default=0.001)
    axis = (max(low, 1e-4) * 0.8, min(1.0, top * 1.2))
    styles = {"before": "second", "after": "main"}
    series = [Series("ideal", axis, axis, "reference")]
    for name, stage in stages:
        curve = stage["curve"]
        series.append(Series(f"{name} calibration", curve["predicted"], curve["observed"], styles[name], True))
    text = "; ".join(f"{name}: expected calibration error {number(stage['error'], 4)}" for name, stage in stages)
    chart = charts.lines(
        "Observed against predicted, bins of equal mass",
        series,
        Axis("predicted", *axis, True),
        Axis("observed", *axis, True),
        text,
    )
    rows = [
        ["Brier score", *(number(stage["brier"]["score"], 4) for _, stage in stages)],
        ["– miscalibration", *(number(stage["brier"]["miscalibration"], 4) for _, stage in stages)],
        ["– discrimination", *(number(stage["brier"]["discrimination"], 4) for _, stage in stages)],
        ["– uncertainty", *(number(stage["brier"]["uncertainty"], 4) for _, stage in stages)],
        ["Brier skill", *(number(stage["brier"]["skill"]) for _, stage in stages)],
        ["log loss", *(number(stage["log_loss"], 4) for _, stage in stages)],
        ["slope (1 is ideal)", *(number(stage["slope"]) for _, stage in stages)],
        ["intercept (0 is ideal)", *(number(stage["intercept"]) for _, stage in stages)],
        ["expected calibration error", *(number(stage["error"], 4) for _, stage in stages)],
    ]
    how = f"Calibration: {found['calibrator']['method']}, each fold by the others." if "calibrator" in found else None
    cards = [
        card("Reliability", chart),
        card("Figures", page.table(["figure", *(name for name, _ in stages)], rows), note(how)),
    ]
    yield tag("div", cards, class_="cards")


def decisions(point: Figures) -> Iterator[Html]:
    """Operating point, decision curve and refer set."""
    names = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value", "flagged")
    rows = [[NAMES[name], number(point[name]["value"]), interval(point[name])] for name in names]
    there = point["at_prevalence"]
    text = f"Chosen on these predictions for {rule(point)}"
    text += "." if point["probability"] is None else f": flagged from a probability of {point['probability']:.4f}."
    if point["nested"]:
        nested = (f"{name} {number(point['nested'][name]['value'])}" for name in ("sensitivity", "specificity"))
        text += f" Where the other folds choose the threshold: {', '.join(nested)}."
    text += f" Where {page.percent(there['prevalence'], 1)} of the images are melanomas: "
    if there["stated"] and there["probability"] is not None:
        text += f"flagged from a probability of {there['probability']:.4f}; "
    if there["stated"]:
        text += f"{page.percent(there['flagged'], 1)} are flagged; "
    flagged, passed = there["positive_predictive_value"], there["negative_predictive_value"]
    text += "no image is flagged" if flagged is None else f"{page.percent(flagged, 1)} of the flagged ones are"
    text += ", all are flagged." if passed is None else f", and {page.percent(1 - passed, 1)} of the others."
    cards = [card("Operating point", page.table(["figure", "value", _LEVEL], rows), note(text))]
    if point["decision_curve"]:
        weighted = f"Images weighted for a prevalence of {page.percent(there['prevalence'], 1)}, as stated."
        how = note(weighted) if there["stated"] else None
        cards.append(card("Decision curve", _decision_chart(point["decision_curve"]), how))
    yield tag("div", [*cards, card("Refer", tag("p", _referred(point["refer"])))], class_="cards")


def _decision_chart(curve: Figures) -> Html:
    highest = max([*curve["model"], 1e-4]) * 1.15
    return charts.lines(
        "Net benefit per image",
        [
            Series("biopsy none", [curve["thresholds"][0], curve["thresholds"][-1]], [0, 0], "reference"),
            Series("biopsy all", curve["thresholds"], curve["treat_all"], "second"),
            Series("biopsy what the model flags", curve["thresholds"], curve["model"]),
        ],
        Axis("probability at which one would biopsy", curve["thresholds"][0], curve["thresholds"][-1], True),
        Axis("net benefit", -highest / 10, highest),
        "the model against treating all and none",
    )


def _referred(refer: Figures) -> str:
    return refer.get("none") or (
        f"Images between two thresholds go to a person: {refer['referred']:.1%} of these. Of new images drawn as "
        f"these were, at least {refer['sensitivity']:.0%} of the melanomas are expected not to be called benign, and "
        f"at least {refer['specificity']:.0%} of the others not to be called melanoma (conformal risk control)."
    )


def subgroups(found: Figures) -> Iterator[Html]:
    """A table for each grouping."""
    yield tag("p", _SUBGROUPS if SKIN_TONE in found else _SUBGROUPS + _NO_SKIN_TONE, class_="lead")
    for what, members in found.items():
        rows = []
        for name, values in members.items():
            row = [name, f"{values['images']:,}", f"{values['positives']:,}"]
            for figure in ("auc", "sensitivity", "specificity"):
                each = values[figure]
                row.append("too few" if each is None else f"{number(each['value'])} ({interval(each)})")
            rows.append(row)
        header = [what, "images", "melanomas", "AUC", "sensitivity", "specificity"]
        text = note(_SKIN_TONE) if what == SKIN_TONE else None
        yield card(what.capitalize(), *_table(header, rows), text, class_="card apart")


def stress(found: Figures) -> Iterator[Html]:
    """A table of what each corruption does."""
    shown = f"{found['images']:,} images" + f" of {found['available']:,}" * (found["images"] < found["available"])
    yield tag("p", _STRESS.format(images=f"{shown}, {found['positives']:,} of them melanomas"), class_="lead")
    clean = found["clean"]
    first = [*_rates(clean, ("sensitivity", "specificity")), None, None]
    rows: list[list[Content]] = [["as they are", number(clean["auc"]), None, *first]]
    for each in found["effects"]:
        gap = each["difference"]
        shown = signed(gap["value"])
        shown += "" if gap["low"] is None else f" ({signed(gap['low'])} to {signed(gap['high'])})"
        name = [f"{each['corruption']}: ", tag("span", each["severity"], class_="of")]
        rows.append([name, number(each["auc"]), shown, *_rates(each, _STRESSED)])
    header = ["images", "AUC", f"difference ({_LEVEL})", "sensitivity", "specificity"]
    table = page.table([*header, "melanomas that flip", "others that flip"], rows, class_="wrap")
    yield card("Under corruptions", table, note(_FLIPS), class_="card apart")


def signed(value: float) -> str:
    """Formats a difference with its sign."""
    return f"{round(value, 3) + 0.0:+.3f}"  # without -0.000


def _rates(found: Figures, names: tuple[str, ...]) -> list[str]:
    values = [found[name]["value"] for name in names]
    return ["–" if value is None else page.percent(value, 1) for value in values]


_STRESSED = ("sensitivity", "specificity", "flipped_positives", "flipped_negatives")


_SCALES = (
    "Pooling all folds and pooling ranks within folds give different AUCs: the models of different folds have scales "
    "of their own. Trust the AUC of each fold."
)
_FLOOR = (
    "How well melanoma can be predicted without looking at a lesion. A model that has learned which camera or clinic "
    "an image came from reaches this too, and would fail elsewhere."
)
_OUT_OF_FOLD = "Gradient boosting, out of fold, on the same folds."
_FEW = "Within one group, the group itself says nothing. No AUC where melanomas or others are fewer than 10."
_SUBGROUPS = f"With {_LEVEL}s; no figure where melanomas or others are of fewer than 10 patients."
_NO_SKIN_TONE = " ISIC 2020 records no skin type: nothing here says how the model does on dark skin."
_SKIN_TONE = (
    "ISIC 2020 records no skin type. The skin tone here is the individual typology angle of the border of each image, "
    "an estimate with a large error: light and white balance are not known, and where the border is lesion or badly "
    "lit, it is that. On HAM10000 images of one lesion differ by a standard deviation of 12 degrees, a class being 13 "
    "to 18 wide, a third has colors that skin does not have in daylight (unknown), and a blue channel 5% stronger "
    "moves the angle by 9. Published estimates of this kind disagree with one another on dermoscopy (Kalb et al. 2023) "
    "and with experts on photographs (Groh et al. 2022). The classes are groups of images by color: a difference "
    "between them may be one between cameras, and a good figure for a dark class says nothing about dark skin."
)
_STRESS = (
    "The same images, corrupted in stated ways and scored again, each by the model of its fold: {images}. A model for "
    "use elsewhere meets such images; one that changes its mind about them looks at more than the lesion."
)
_FLIPS = (
    "Differences of the AUC are to the same images as they are, paired, with patients resampled. An image flips if its "
    "decision at the operating point is another than on the image as it is. Intervals of the rates are in metrics.json."
)
