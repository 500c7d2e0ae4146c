"""Line charts as inline SVG with a folded table of their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tfrecord_tools.html.page import Html, join, table, tag

_WIDTH, _HEIGHT = 360, 260  # about the pixels of a card, so that text keeps its size
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 42


class Series(NamedTuple):
    """A line of a chart.

    Attributes:
      name: in the legend and the table.
      x: values on the horizontal axis.
      y: values on the vertical axis.
      style: CSS class: main, second or reference.
      dots: whether each value has a dot.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "main"
    dots: bool = False


class Axis(NamedTuple):
    """An axis: its label, its ends, and whether it is logarithmic; values outside are not drawn."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def place(self, value: float) -> float:
        """Returns where a value stands between the ends, 0 to 1 inside."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Returns round values between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 4 else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step *= next(f for f in (1, 0.5, 0.2, 0.1) if (self.high - self.low) / (step * f) >= 3.999)
            found = [
                step * i for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9) or not value]


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis, description: str) -> Html:
    """Makes a chart.

    Args:
      title: caption.
      series: lines, the last on top.
      x: horizontal axis.
      y: vertical axis.
      description: what the chart shows in words, for those who do not see it.
    """
    drawing = []
    for line in series:
        corners = [_at(x.place(a), y.place(b)) for a, b in zip(line.x, line.y, strict=True)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        drawing.append(tag("polyline", points=points, class_=f"line {line.style}"))
        if line.dots:
            drawing += [
                tag(
                    "circle",
                    tag("title", f"{a:.3g}, {b:.3g}"),
                    cx=f"{px:.1f}",
                    cy=f"{py:.1f}",
                    r="3.5",
                    class_=line.style,
                )
                for (px, py), a, b in zip(corners, line.x, line.y, strict=True)
            ]
    (left, bottom), (right, top) = _at(0, 0), _at(1, 1)
    # An SVG within clips what lies beyond the axes, with room for half a dot.
    inside = {"x": left - 4, "y": top - 4, "width": right - left + 8, "height": bottom - top + 8}
    box = " ".join(f"{value:.1f}" for value in inside.values())
    drawing = [_grid(x, y), tag("svg", drawing, viewBox=box, **inside)]
    chart = tag(
        "svg",
        drawing,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="lines",
        role="img",
        aria_label=f"{title}: {description}",
    )
    names = tag("p", (tag("span", line.name, class_=f"line-key {line.style}") for line in series), class_="legend")
    numbers = (_numbers(line, x, y) for line in series if line.style != "reference")
    folded = tag("details", tag("summary", "numbers"), numbers)
    return tag("figure", tag("figcaption", title), chart, names, folded)


def _at(x: float, y: float) -> tuple[float, float]:
    x, y = min(max(x, -9.0), 9.0), min(max(y, -9.0), 9.0)
    return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM)


def _grid(x: Axis, y: Axis) -> Html:
    drawing = []
    (left, bottom), (right, top) = _at(0, 0), _at(1, 1)
    for value in y.ticks():
        height = _at(0, y.place(value))[1]
        drawing.append(tag("line", x1=left, x2=right, y1=height, y2=height, class_="grid"))
        drawing.append(tag("text", f"{value:.3g}", x=left - 5, y=height + 4, text_anchor="end"))
    for value in x.ticks():
        across = _at(x.place(value), 0)[0]
        drawing.append(tag("line", x1=across, x2=across, y1=top, y2=bottom, class_="grid"))
        drawing.append(tag("text", f"{value:.3g}", x=across, y=bottom + 15, text_anchor="middle"))
    drawing.append(tag("text", x.label, x=(left + right) / 2, y=_HEIGHT - 6, text_anchor="middle"))
    middle = (top + bottom) / 2
    turned = f"rotate(-90 11 {middle:.1f})"
    drawing.append(tag("text", y.label, x=11, y=middle, text_anchor="middle", transform=turned))
    return join(drawing)


def _numbers(line: Series, x: Axis, y: Axis) -> Html:
    step = max(1, len(line.x) // 20)
    rows = [[f"{a:.3g}", f"{b:.3g}"] for a, b in zip(line.x[::step], line.y[::step], strict=True)]
    return join([tag("p", line.name), table([x.label, y.label], rows)])


STYLE = """
.card.apart{margin-bottom:16px}
.lines{display:block;width:100%;height:auto}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.main{stroke:var(--melanoma)}.line.second{stroke:var(--other);stroke-dasharray:6 3}
.line.reference{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}
circle.main{fill:var(--melanoma)}circle.second{fill:var(--other)}
.line-key::before{content:"";display:inline-block;width:18px;margin-right:6px;vertical-align:middle;
border-top:2px solid currentColor}
.line-key.main::before{border-color:var(--melanoma)}.line-key.second::before{border-top:2px dashed var(--other)}
.line-key.reference::before{border-top:1px dotted var(--soft)}
"""
