"""How a build was made: date, command, inputs, settings and versions, from its manifest."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfrecord_tools.builder.settings import DEFAULTS, FOLDS, QUALITY, SHARDS, SUBSAMPLING
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.html.page import Html, card, join, note, table, tag
from tfrecord_tools.records.manifest import MANIFEST, Manifest

_DIGEST = re.compile("[0-9a-f]{64}")


def section(folder: AnyPath, manifest: Manifest) -> Html:
    """Section on how a build was made."""
    # A manifest holds no date, so that the same input gives the same bytes whenever it is built.
    path = folder / MANIFEST
    made = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC) if isinstance(path, Path) else None
    date = None if made is None else tag("p", f"Finished on {made:%Y-%m-%d at %H:%M} UTC, as its {MANIFEST} is dated.")
    text = "The command with these settings; folders, files and what does not change bytes are yours to name."
    inputs = {
        f"{split} {key}": value
        for split, each in manifest.inputs.items()
        for key, value in each.items()
        if key != "quarantined"  # has its own section
    }
    shown = {"Input": inputs, "Settings": manifest.settings, "Versions": manifest.versions}
    cards = [_values(title, values) for title, values in shown.items()]
    return join(
        [
            date,
            tag("p", tag("code", (tag("span", word) for word in command(manifest)))),
            note(text),
            tag("div", cards, class_="cards"),
        ]
    )


def command(manifest: Manifest) -> list[str]:
    """Words of the command that makes such a build, as far as a manifest tells."""
    words = ["python", "-m", "tfrecord_tools.build", f"--size={manifest.settings.get('size')}"]
    for entry in manifest.inputs.values():
        name = str(entry.get("name"))
        words += ["--csv", name, "--images", "IMAGES"] if Path(name).suffix else ["--from_tfrecords", name]
    defaults = DEFAULTS | {"quality": QUALITY, "subsampling": SUBSAMPLING, "folds": FOLDS, "shards": SHARDS}
    settings = manifest.settings
    if settings.get("folds_from"):  # the default is a fold for each value
        defaults["folds"] = None if settings.get("folds_modulo") else settings.get("folds")
    for key, value in settings.items():
        if value not in (None, defaults.get(key, value)):
            flag = "FILE" if _digests(value) else ",".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--{key}" if value is True else f"--{key}={flag}")
    return list(map(shlex.quote, words))


def _values(title: str, values: Mapping[str, Any]) -> Html:
    """Card of values; digests, which nobody reads but to compare, are folded."""
    given = {key: value for key, value in values.items() if value is not None}
    plain, folded = ([(key, _text(v)) for key, v in given.items() if _digests(v) is long] for long in (False, True))
    more = tag("details", tag("summary", "SHA-256"), table(["of", "value"], folded, class_="text")) if folded else None
    return card(title, table([title.lower(), "value"], plain, class_="text"), more)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _digests(value: Any) -> bool:
    return any(_DIGEST.fullmatch(str(each)) for each in (value if isinstance(value, list) else [value]))
