"""Holds all text of the repository to the words of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.process import REPOSITORY

FOLDERS = ("benchmarks", "configs", "docs", "melanoma_tf", "notebooks", "tests", "tfrecord_tools")
SUFFIXES = {".ipynb", ".md", ".py"}
# Private words, and what to write instead.
WORDS = {
    r"pictures?": "image",
    r"mend(?:ed|ing|s)?": "fix",
    r"anew": "again",
    r"told": "reported, given",
    r"but\s+for": "except",
    r"there (?:is|are):": "expected one of: ",
}
PATTERNS = {re.compile(rf"(?<![^\W_]){word}(?![^\W_])", re.IGNORECASE): instead for word, instead in WORDS.items()}
# An HTML element, and a flag of earlier versions.
ALLOWED = re.compile(r"</?picture\b|DEFINE_alias\(\"pictures\"")


def text_files() -> list[Path]:
    """Files at the root and in the project's folders, found without git so that an sdist can be tested."""
    files = [path for path in REPOSITORY.iterdir() if path.suffix in SUFFIXES or path.name == "Makefile"]
    files += [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted(path for path in files if path.is_file() and path != Path(__file__).resolve())


def offenders(text: str) -> list[tuple[int, str]]:
    """Line number and reason of each private word."""
    text = ALLOWED.sub("", text)
    found = [
        (text.count("\n", 0, match.start()) + 1, f"{' '.join(match[0].split())!r}: write {instead!r}")
        for pattern, instead in PATTERNS.items()
        for match in pattern.finditer(text)
    ]
    return sorted(found)


def test_no_private_words():
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {reason}"
        for path in text_files()
        for line, reason in offenders(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join([f"{len(found)} private words", *found])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Two Pictures\nand a picture", [1, 2]),
        ("mends\nmended\nmending\nmend", [1, 2, 3, 4]),
        ("all but\nfor one", [1]),
        ("unknown loss 'x'; there is: focal", [1]),
        ("recommended, amend, stolder, anewhat, there is one", []),
        ('<picture><source srcset="a.png"></picture>', []),
    ],
)
def test_words_are_found_whole(text: str, lines: list[int]):
    assert [line for line, _ in offenders(text)] == lines


def test_package_and_notebooks_are_among_the_files():
    names = {path.relative_to(REPOSITORY).as_posix() for path in text_files()}
    assert {"Makefile", "README.md", "melanoma_tf/train.py", "notebooks/kaggle.ipynb"} <= names
