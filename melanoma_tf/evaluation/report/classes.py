"""report.html of a model of several diagnoses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from melanoma_tf.evaluation.report.page import USE, interval, number, resampled
from tfrecord_tools.html import charts, page
from tfrecord_tools.html.page import Content, card, note, tag


def make(title: str, results: Mapping[str, Any]) -> str:
    """Makes the page.

    Args:
      title: name of what was evaluated.
      results: see `multiclass.analyze`.
    """
    found = results["balanced_accuracy"]
    how = f"95% interval {interval(found)}, {resampled(results)}"
    value = tag("dd", number(found["value"]), tag("small", how))
    patients = f"of {results['patients']:,} patients" if results["patients_known"] else "patients unknown"
    images = tag("dd", f"{results['images']:,}", tag("small", patients))
    boxes = {"balanced accuracy": value, "images": images}
    tiles = [tag("div", tag("dt", name), content, class_="tile") for name, content in boxes.items()]
    body: list[Content] = [
        tag("h1", title),
        [tag("p", text, class_="warning") for text in results["warnings"]],
        tag("p", USE, class_="lead"),
        tag("dl", tiles, class_="tiles"),
        tag("h2", "Classes"),
        *cards(results),
    ]
    return page.document(title, body, charts.STYLE)


def cards(results: Mapping[str, Any]) -> list[Content]:
    """The tables of each class against the rest, and of true by predicted class. results: see `multiclass.analyze`."""
    rows = [
        [
            name,
            f"{each['images']:,}",
            *(f"{number(each[key]['value'])} ({interval(each[key])})" for key in ("recall", "auc")),
        ]
        for name, each in results["classes"].items()
    ]
    counts = ([name, *(f"{n:,}" for n in row)] for name, row in results["confusion"].items())
    return [
        card("Each against the rest", page.table(["class", "images", "recall", "AUC"], rows), class_="card apart"),
        card(
            "True by predicted class",
            page.table(["true", *results["confusion"]], counts),
            note("Predicted is the class with the highest score."),
            class_="card apart",
        ),
    ]


def section(results: Mapping[str, Any]) -> list[Content]:
    """Balanced accuracy and `cards`, as a section of a report."""
    found = results["balanced_accuracy"]
    text = f"Balanced accuracy over the diagnoses that occur: {number(found['value'])} ({interval(found)}), of "
    return [tag("p", f"{text}{results['images']:,} images whose diagnosis is known."), *cards(results)]
