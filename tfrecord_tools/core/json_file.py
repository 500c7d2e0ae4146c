"""JSON files, which may come from anybody."""

from __future__ import annotations

import json
import re
from typing import Any

from tfrecord_tools.core.paths import AnyPath

_DEPTH = 100  # levels of lists and objects: far more than our own files have, and few enough for every recursion
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)  # a text may be cut off


def read(path: AnyPath) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: it is not JSON in UTF-8, or nested too deeply; the message has the place, not the file's name.
      OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    _check_depth(text)
    return json.loads(text)


def _check_depth(text: str) -> None:
    """Raises JSONDecodeError with the place at which a text is nested too deeply."""
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEPTH:
            raise json.JSONDecodeError(f"nested more than {_DEPTH} levels deep", text, token.start())
