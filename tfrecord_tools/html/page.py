"""Building blocks of a self-contained HTML page: escaped elements, tables with bars, histograms as inline SVG, style.

Charts are tables with a drawing in one column, so that screen readers, narrow windows and printers get the numbers too;
histograms have a folded table below. The page's Content-Security-Policy forbids scripts and network access, whatever a
file name contains.
"""

from __future__ import annotations

import base64
import html
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tfrecord_tools.metadata.vocabulary import CLASSES

_EMPTY = frozenset({"meta", "img"})  # elements without an end tag; all SVG elements have one
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is already HTML; any other text is escaped."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]


def tag(name: str, /, *content: Content, **attributes: str | float | None) -> Html:
    """Makes an element.

    Args:
      name: name of the tag.
      content: strings are escaped, `Html` is not, None is skipped, iterables are joined.
      attributes: values are escaped. In names a trailing underscore is dropped (class_), others become hyphens
        (aria_label).
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = "".join([name, *(f' {key}="{html.escape(_number(value))}"' for key, value in pairs)])
    return Html(f"<{opening}>" if name in _EMPTY else f"<{opening}>{join(content)}</{name}>")


def join(content: Content) -> Html:
    """Joins content to HTML, and escapes text that is not HTML yet."""
    if content is None:
        return Html()
    if isinstance(content, str | int):
        return content if isinstance(content, Html) else Html(html.escape(str(content)))
    return Html("".join(map(join, content)))


def _number(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(part: float, whole: float) -> str:
    """Percentage with two significant digits, so that 0.18% is not 0%; "–" if `whole` is 0."""
    if not whole:
        return "–"
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.1f}%" if value >= 1 else f"{value:.2g}%"


# --------------------------------------------------------------------------------------------------- tables


class Bar(NamedTuple):
    """A row of `bars`; counts: images by target."""

    label: str
    counts: dict[int, int]

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(self.counts.values())


class Rate(NamedTuple):
    """A row of `rates`.

    Attributes:
      images: number of labelled images.
      low: lower end of the interval, 0..1.
      high: upper end of the interval, 0..1.
    """

    label: str
    melanomas: int
    images: int
    low: float
    high: float


def table(header: Sequence[Content], rows: Iterable[Sequence[Content]], class_: str | None = None) -> Html:
    """Makes a table; the first cell of a row is its heading."""
    head = tag("tr", (tag("th", cell, scope="col") if cell else tag("td") for cell in header))
    body = (tag("tr", tag("th", first, scope="row"), (tag("td", cell) for cell in rest)) for first, *rest in rows)
    drawn = tag("table", tag("thead", head), tag("tbody", body), class_=class_)
    # Reached by keyboard, so that a table that is wider than its card can be scrolled.
    name = ", ".join(str(cell) for cell in header if cell and not isinstance(cell, Html))
    return tag("div", drawn, class_="scroll", tabindex="0", role="group", aria_label=name)


def bars(what: str, rows: Sequence[Bar], classes: Sequence[int], unit: str = "images") -> Html:
    """Table of images by class as stacked bars with counts; melanoma first, so that it has a common baseline."""
    longest = max((row.total for row in rows), default=0) or 1
    several = len(classes) > 1 and 1 in classes
    cells = []
    for row in rows:
        drawing, at = [], 0.0
        for target in classes:
            count = row.counts.get(target, 0)
            drawing.append(_segment(at, 100 * count / longest, CLASSES[target], f"{count:,} {CLASSES[target]}"))
            at += 100 * count / longest
        counted = [f"{row.total:,}", *([f"{row.counts.get(1, 0):,}"] if several else [])]
        cells.append([row.label, _cell(drawing), *counted])
    return table([what, "", unit, *(["melanoma"] if several else [])], cells, class_="chart")


def _segment(at: float, width: float, class_: str, title: str) -> Html | None:
    if not width:
        return None
    return tag("rect", tag("title", title), x=f"{at:.4g}%", width=f"{width:.4g}%", height="100%", class_=class_)


def _cell(drawing: Content) -> Html:
    return tag("svg", drawing, class_="cell", aria_hidden="true")


def common_axis(groups: Iterable[Sequence[Rate]], overall: float) -> float:
    """End of the axis that the tables of rates side by side share, 0..1."""
    # Rows of a handful of images have intervals of nearly 0 to 1, which would compress all others.
    rows = [row for each in groups for row in each if row.images]
    ends = [row.high for row in rows if row.images >= 30] + [row.melanomas / row.images for row in rows]
    return _round_up(max([overall, *ends]) or 1.0, limit=1.0)


def rates(what: str, rows: Sequence[Rate], overall: float, top: float) -> Html:
    """Table of shares of melanoma as dots with intervals, and a dashed line at the overall share, on 0..`top`."""
    cells = []
    for row in rows:
        mark = [_line(100 * overall / top, class_="overall")]
        if row.images:
            low, high = f"{100 * row.low / top:.4g}%", f"{min(100 * row.high / top, 101):.4g}%"
            middle = f"{100 * row.melanomas / row.images / top:.4g}%"
            interval = f"95% interval {percent(row.low, 1)} to {percent(row.high, 1)}"
            mark.append(tag("line", x1=low, x2=high, y1="50%", y2="50%", class_="whisker"))
            mark.append(tag("circle", cx=middle, cy="50%", r="4", class_="melanoma"))
            mark.insert(0, tag("title", interval))
        count = [f"{row.melanomas:,}", tag("span", f" of {row.images:,}", class_="of")]
        cells.append([row.label, _cell(mark), percent(row.melanomas, row.images), count])
    axis = tag("span", tag("span", "0"), tag("span", percent(top, 1)), class_="axis")
    return table([what, axis, "share", "melanoma"], cells, class_="chart rates")


def _line(at: float, class_: str) -> Html:
    return tag("line", x1=f"{at:.4g}%", x2=f"{at:.4g}%", y1="0", y2="100%", class_=class_)


def _round_up(value: float, limit: float = math.inf) -> float:
    """Rounds up to 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return min(next(step * power for step in steps if step * power >= value * (1 - 1e-9)), limit)


# --------------------------------------------------------------------------------------------- histograms


def histogram(title: str, edges: Sequence[int], counts: Sequence[int], class_: str, unit: str) -> Html:
    """Histogram with a folded table of its numbers.

    Args:
      title: caption.
      edges: bins are edges[i] <= value < edges[i + 1], whole numbers of `unit`.
      counts: one for each bin.
      class_: CSS class of the bars.
      unit: unit of the edges.
    """
    width, height, left, bottom, above = 360, 130, 38, 20, 8  # about the pixels of a card, so that text keeps its size
    top = _round_up(max(counts, default=0) or 1)
    step, floor = (width - left) / max(len(counts), 1), height - bottom
    drawing = []
    for value in (0, top / 2, top):
        y = floor - (floor - above) * value / top
        drawing.append(tag("line", x1=left, x2=width, y1=y, y2=y, class_="grid"))
        drawing.append(tag("text", _short(value), x=left - 5, y=y + 4, text_anchor="end"))
    names = [f"{low}–{high - 1}" if high - low > 1 else str(low) for low, high in itertools.pairwise(edges)]
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        tall, x = (floor - above) * count / top, left + index * step
        hint = tag("title", f"{name} {unit}: {count:,}")
        place = {"x": x + 0.75, "y": floor - tall, "width": max(step - 1.5, 0.5), "height": tall}
        drawing.append(tag("rect", hint, class_=class_, **place))
        if edges[index] % (4 * (edges[1] - edges[0])) == 0:
            drawing.append(tag("text", edges[index], x=x, y=height - 5, text_anchor="middle" if index else "start"))
    label = f"{title}: {sum(counts):,} images; the numbers are in the table below"
    chart = tag("svg", drawing, viewBox=f"0 0 {width} {height}", class_="histogram", role="img", aria_label=label)
    rows = ([name, f"{count:,}"] for name, count in zip(names, counts, strict=True))
    numbers = tag("details", tag("summary", "numbers"), table([unit, "images"], rows))
    return tag("figure", tag("figcaption", title), chart, numbers)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


# ---------------------------------------------------------------------------------------------------- page


def card(title: str, *content: Content, class_: str = "card") -> Html:
    """Box with a heading."""
    return tag("section", tag("h3", title), content, class_=class_)


def note(*content: Content) -> Html:
    """Line of explanation."""
    return tag("p", content, class_="note")


def legend(classes: Sequence[int]) -> Html:
    """Legend of the colors of the classes."""
    swatches = (tag("span", CLASSES[target], class_=f"key {CLASSES[target]}") for target in classes)
    return tag("p", swatches, class_="legend")


def image(jpeg: bytes, side: int, description: str) -> Html:
    """Inlines a square JPEG; side: its pixels, so that the layout does not move while the page loads."""
    source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return tag("img", src=source, width=side, height=side, alt=description)


def document(title: str, body: Content, style: str = "") -> Html:
    """Makes the document; style: CSS beside that of this module."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_STYLE + style)),
    )
    page = tag("html", tag("head", head), tag("body", tag("main", body)), lang="en")
    return Html(f"<!doctype html>\n{page}\n")


# Orange and blue differ for any color vision, and every number is in text beside its color.
_STYLE = """
:root{--page:#fff;--card:#f6f7f9;--ink:#1c2127;--soft:#56606c;--line:#d8dde4;--melanoma:#c4511f;--other:#3f7fae;
--unlabelled:#7d8794;--bad:#a5261b;--badpage:#fdecea}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2127;--ink:#e7eaee;--soft:#a3adb8;--line:#363d47;
--melanoma:#f0884f;--other:#6aaedb;--unlabelled:#929ca8;--bad:#ff9b8f;--badpage:#3a1d1a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1220px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:44px 0 4px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 10px}
.note,.lead{color:var(--soft);max-width:75ch}.note{font-size:13.5px}
a{color:inherit}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:14px 0 20px;font-size:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px;margin:0 0 12px}
.tile{border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile dt{color:var(--soft);font-size:13px}.tile dd{margin:0;font-size:23px;font-weight:600;line-height:1.25}
.tile dd small{display:block;font-size:13px;font-weight:400;color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:16px}.cards .card{flex:1 1 340px}.cards .wide{flex:2 1 696px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,280px),1fr));gap:0 24px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;min-width:0}
.card>:last-child{margin-bottom:0}.card .note{margin-top:8px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:3px 0 3px 10px;text-align:right;vertical-align:middle;white-space:nowrap}
th:first-child,td:first-child{padding-left:0;text-align:left}
thead th,thead td{font-weight:400;color:var(--soft);border-bottom:1px solid var(--line);font-size:12.5px}
tbody th{font-weight:400}
.chart tbody th{white-space:normal;min-width:8.4em}
.chart tr>:nth-child(2){width:100%;min-width:60px}
.text td,.text th{text-align:left;vertical-align:top}.text td{white-space:normal;overflow-wrap:anywhere}
.wrap tbody th{white-space:normal}
.of{color:var(--soft)}
.cell{display:block;width:100%;height:14px;overflow:visible}
.axis{display:flex;justify-content:space-between}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
rect.melanoma,circle.melanoma{fill:var(--melanoma)}rect.other{fill:var(--other)}
rect.unlabelled{fill:var(--unlabelled)}rect.missing{fill:var(--soft)}
.whisker{stroke:var(--melanoma);stroke-width:1.5}.overall{stroke:var(--soft);stroke-dasharray:2 2}
.grid{stroke:var(--line)}
.histogram{display:block;width:100%;height:auto}
figure{margin:0 0 10px}figcaption{font-size:13px;color:var(--soft)}
details{font-size:13px;color:var(--soft)}summary{cursor:pointer}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13.5px;margin:10px 0 14px}
.key::before{content:"";display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;
background:currentColor}
.key.melanoma::before{background:var(--melanoma)}.key.other::before{background:var(--other)}
.key.unlabelled::before{background:var(--unlabelled)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:16px 12px;margin:10px 0 24px}
.sheet figure{margin:0;min-width:0}
.sheet figcaption,.pair figcaption{font-size:12px;line-height:1.4;overflow-wrap:anywhere;margin-top:5px}
figcaption b,figcaption span{display:block}figcaption b{font-weight:600;color:var(--ink)}
img{display:block;width:100%;height:auto;border-radius:4px;background:var(--line)}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,270px),1fr));gap:16px;margin:10px 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:10px;align-content:start}
.pair figure{margin:0;min-width:0}.pair p{grid-column:1/-1;margin:0;font-size:13px}
.absent{display:grid;place-items:center;aspect-ratio:1;border:1px dashed var(--soft);border-radius:4px;
color:var(--soft);font-size:12.5px;text-align:center;padding:6px}
.bad{color:var(--bad);font-weight:600}
code{font:13px ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
code span{display:inline-block;margin-right:1ch}
.remark{border-left:3px solid var(--melanoma);padding-left:12px;max-width:75ch;margin:12px 0}
.warning{background:var(--badpage);border:1px solid var(--bad);border-radius:8px;padding:10px 14px;margin:12px 0}
@media (max-width:480px){main{padding:18px 14px 40px}h1{font-size:23px}.tiles{grid-template-columns:1fr 1fr}
.card{padding:12px}.cards .card{flex-basis:100%}
.sheet{grid-template-columns:1fr 1fr 1fr;gap:14px 8px}.sheet figcaption{font-size:11px}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--melanoma:#c4511f;
--other:#3f7fae;--unlabelled:#7d8794;--bad:#a5261b;--badpage:#fff}
body,table,.note,.legend,p{font-size:11px}thead th,thead td,.tile dt,.tile dd small,figcaption{font-size:10.5px}
main{max-width:none;padding:0}h2{margin-top:18px;padding-top:8px}nav,details{display:none}
.tiles{grid-template-columns:repeat(auto-fit,minmax(88px,1fr));gap:8px}.tile{padding:6px 8px}.tile dd{font-size:18px}
.key::before{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.card,.tile,.pair,figure,tr,p{break-inside:avoid}h2,h3,.lead,.legend{break-after:avoid}
.pairs{grid-template-columns:1fr 1fr 1fr}.scroll{overflow:visible}
.cards .card{flex-basis:40%}}
"""
