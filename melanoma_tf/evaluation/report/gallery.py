"""The images that a model is most confidently wrong about."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image

from melanoma_tf.evaluation.report.overlay import VIRIDIS, Overlay
from tfrecord_tools.html import filters, page
from tfrecord_tools.html.page import Html, join, note, tag

SHOWN = 12  # of each kind
SIDE = 160  # pixels of a thumbnail
MISSED, ALARMS = "Melanomas with the lowest predictions", "Others with the highest predictions"
STYLE = f"""
.sheet.explained{{grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--width)),1fr))}}
.both{{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:4px}}
.scale::before{{content:"";display:inline-block;width:90px;height:11px;border-radius:2px;margin-right:6px;
background:linear-gradient(90deg,{",".join(VIRIDIS)});print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
_EXPLAINED = (
    "Beside each image is a Grad-CAM of the model that held it out: the parts that raised its prediction or, where the "
    "text says so, lowered it. Each image has a scale of its own: yellow is its largest effect in either direction, no "
    "color is no effect. It shows where the model looked, not why, and not whether a person would look there."
)


def most_confident(table: pd.DataFrame, shown: int = SHOWN) -> dict[str, list[str]]:
    """Returns the names of the melanomas that are least and of the others that are most like melanoma.

    Args:
      table: a checked table of predictions.
      shown: images of each kind.
    """
    by_score = table.sort_values("logit", kind="stable")
    missed = by_score[by_score["target"] == 1].head(shown)
    alarms = by_score[by_score["target"] == 0].tail(shown).iloc[::-1]
    return {MISSED: missed["image_name"].tolist(), ALARMS: alarms["image_name"].tolist()}


def section(
    table: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    images: Mapping[str, bytes],
    overlays: Mapping[str, Sequence[Overlay]] | None = None,
    side: int = SIDE,
) -> Html:
    """Returns a sheet of images for each group.

    Args:
      table: a checked table of predictions.
      groups: names of images by title, e.g. of `most_confident`.
      images: JPEG bytes by name; an image without is left out.
      overlays: maps to show beside each image, by name; an image without is shown alone.
      side: pixels of a thumbnail.
    """
    overlays = overlays or {}
    rows = dict(zip(table["image_name"], table.to_dict("records"), strict=True))
    ranks = dict(zip(table["image_name"], table["logit"].rank(method="min", ascending=False), strict=True))
    width = 0.85 * side * (1 + max(map(len, overlays.values()), default=0))  # the least of a figure
    found: list[Html | None] = [_legend() if overlays else None]
    for title, names in groups.items():
        figures = [
            _figure(
                name,
                images[name],
                overlays.get(name, ()),
                _lines(rows[name], int(ranks[name]), len(table)),
                side,
                **_marks(rows[name]),
            )
            for name in names
            if name in images
        ]
        class_, style = ("sheet explained", f"--width:{width:.0f}px") if overlays else ("sheet", None)
        found += [tag("h3", title), tag("div", figures, class_=class_, style=style)]
    return join(found)


def _legend() -> Html:
    scale = tag("p", tag("span", "little to most", class_="scale"), class_="legend")
    return join([note(_EXPLAINED), scale])


def _lines(row: Mapping[Any, Any], rank: int, images: int) -> list[str]:
    """Lines of a caption."""
    probability = row.get("probability")
    known = probability is not None and not math.isnan(probability)
    lines = [f"probability {probability:.3g} before calibration"] if known else []
    lines.append("highest" * (rank == 1) or f"rank {rank:,}")
    lines[-1] += f" of {images:,} predictions"
    words = (row.get(key) for key in ("diagnosis", "anatom_site_general_challenge", "source"))
    return [*lines, *(word for word in words if isinstance(word, str))]


def _marks(row: Mapping[Any, Any]) -> dict[str, str]:
    """Attributes by which a figure is filtered."""
    return filters.marks(site=row.get("anatom_site_general_challenge"), source=row.get("source"))


def _figure(name: str, jpeg: bytes, overlays: Sequence[Overlay], lines: Sequence[str], side: int, **marks: str) -> Html:
    shown = page.image(_thumbnail(jpeg, side), side, f"{name}, {', '.join(lines)}")
    if overlays:
        drawn = (page.image(_thumbnail(each.png, side), side, f"Grad-CAM of {name}: {each.text}") for each in overlays)
        shown, lines = tag("div", shown, drawn, class_="both"), [*lines, *(each.text for each in overlays)]
    return tag("figure", shown, tag("figcaption", tag("b", name), (tag("span", line) for line in lines)), **marks)


def _thumbnail(image: bytes, side: int) -> bytes:
    with Image.open(io.BytesIO(image)) as opened:
        opened.thumbnail((side, side))
        small = io.BytesIO()
        opened.convert("RGB").save(small, "JPEG", quality=85)
    return small.getvalue()
