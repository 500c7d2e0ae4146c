"""Filters of a page's figures by what is known of them, such as site and source, in CSS alone.

A page needs no script for them: a rule of the style sheet hides the figures in elements of class `sheet` that do not
have the mark of the chosen option. Browsers without `:has` show all figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from tfrecord_tools.html.page import Html, tag

Choices = Mapping[str, Iterable[str | None]]


def marks(**values: object) -> dict[str, str]:
    """Returns the attributes by which a figure is filtered.

    Args:
      values: value of the figure for each filter; what is no text is left out.

    Returns:
      Keyword arguments of `page.tag`, e.g. {"data_site": ...} for site="torso".
    """
    return {f"data_{name}": _key(value) for name, value in values.items() if isinstance(value, str) and value}


def _key(value: str) -> str:
    """A short name for any text, that needs no escaping in CSS."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _options(choices: Choices) -> dict[str, list[str]]:
    """The values of each filter that has several."""
    found = {name: sorted({v for v in values if isinstance(v, str) and v}) for name, values in choices.items()}
    return {name: values for name, values in found.items() if len(values) > 1}


def controls(choices: Choices) -> Html | None:
    """Returns a select for each filter that has several values; None if there is none.

    Args:
      choices: values of the figures for each filter, repeated or not.
    """
    options = _options(choices)
    if not options:
        return None
    return tag("div", (_select(name, values) for name, values in options.items()), class_="filters")


def _select(name: str, values: Iterable[str]) -> Html:
    listed = [tag("option", "all", value=""), *(tag("option", value, value=_key(value)) for value in values)]
    return tag("label", f"{name} ", tag("select", listed, autocomplete="off", class_=f"filter-{name}"))


def style(choices: Choices) -> str:
    """Returns the style sheet of `controls`."""
    rules = [
        f'main:has(.filter-{name} [value="{key}"]:checked) .sheet figure:not([data-{name}="{key}"])'
        for name, values in _options(choices).items()
        for key in map(_key, values)
    ]
    return _STYLE + "".join(f"{rule}{{display:none}}\n" for rule in rules) if rules else ""


_STYLE = """.filters{display:flex;flex-wrap:wrap;gap:8px 18px;margin:10px 0}.filters label{max-width:100%}
.filters select{font:inherit;color:inherit;background:var(--card);border:1px solid var(--soft);border-radius:6px;
padding:4px 8px;max-width:100%;min-height:32px}
@media print{.filters{display:none}}
"""
