"""Tables of metadata for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def write_tables(folder: Path, *texts: str) -> list[Path]:
    """Writes each text to a file of its own and returns their paths."""
    paths = [folder / f"table{index}.csv" for index, _ in enumerate(texts)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, by column."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
