"""Codes of the words of every source, and the targets that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tfrecord_tools.metadata.words import DIAGNOSIS_WORDS, SEX_WORDS, SITE_WORDS, Words
from tfrecord_tools.schema import DIAGNOSIS, MISSING, SEX, SITE

COLUMN_MAP = "columns"  # the words of all sources, for a table with a column map
CLASSES: Final = {1: "melanoma", 0: "other", MISSING: "unlabelled"}  # by target; html/page.py colors by these words
TARGETS: Final = {"0": 0, "0.0": 0, "0,0": 0, "1": 1, "1.0": 1, "1,0": 1}  # as pandas and spreadsheets write them

# Cells that stand for a missing identifier (of an image, patient or lesion), in lower case. "0" may be a real one.
MISSING_WORDS: Final = frozenset(
    {
        *("", "-", "--", "?", "??", ".", "-1", "-1.0", "-9", "-99", "-999", "-9999"),
        *("nan", "none", "null", "nil", "nat", "<na>", "na", "n/a", "#n/a", "n.a.", "n.a", "not available"),
        *("unknown", "unk", "unspecified", "undefined", "not known", "not specified", "missing", "empty", "anonymous"),
    }
)

# Diagnoses that contradict one value of `benign_malignant`; the others allow both.
_ONLY_MALIGNANT = frozenset({"melanoma", "basal cell carcinoma", "other malignant"})
_ONLY_BENIGN = frozenset(
    {
        "nevus",
        "seborrheic keratosis",
        "lentigo NOS",
        "lichenoid keratosis",
        "solar lentigo",
        "cafe-au-lait macule",
        "benign keratosis",
        "dermatofibroma",
        "vascular lesion",
        "other benign",
    }
)
# Words of `benign_malignant`, in lower case; ISIC 2024 and DDI answer the same question with numbers and booleans.
_VERDICTS: Final = {
    **{
        word: word
        for word in ("benign", "malignant", "indeterminate", "indeterminate/benign", "indeterminate/malignant")
    },
    **dict.fromkeys(("0", "0.0", "false"), "benign"),
    **dict.fromkeys(("1", "1.0", "true"), "malignant"),
}
# Words that may or may not be a melanoma; `benign_malignant` decides.
_UNDECIDED = frozenset(
    {
        *("unknown", "other", "adnexal tumor", "malignant", "indeterminate"),
        "collision - at least one malignant proliferation",
    }
)
_DEFAULT = "isic_archive"  # for a source without words of its own
_OPEN = "ddi"  # its words are too many to list: those that are not are other benign or malignant, as its verdict says
_MELANOMA = re.compile("melanoma|lentigo[- ]maligna", re.IGNORECASE)


class _WordTable(NamedTuple):
    """Meanings of a source's words. exact: case matters, as in Kaggle's tables; else the keys are in lower case."""

    meanings: Mapping[str, str]
    exact: bool


def _tables(published: Words) -> dict[str, _WordTable]:
    """The word table of each source, and their union as COLUMN_MAP."""
    union = {word: meaning for words in published.values() for word, meaning in words.items()}
    return {
        name: _WordTable(
            words if name == "isic2020" else {word.lower(): words[word] for word in words}, name == "isic2020"
        )
        for name, words in {**published, COLUMN_MAP: union}.items()
    }


_SEXES, _SITES, _DIAGNOSES = map(_tables, (SEX_WORDS, SITE_WORDS, DIAGNOSIS_WORDS))


def is_missing(identifier: str) -> bool:
    """Whether a cell names no image, patient or lesion."""
    return identifier.strip().lower() in MISSING_WORDS


def sex_code(source: str, cell: str) -> int:
    """Returns the index into SEX, -1 if empty or unknown; raises ValueError with the allowed words."""
    return _code(cell, _SEXES.get(source, _SEXES[_DEFAULT]), SEX)


def site_code(source: str, cell: str) -> int:
    """Returns the index into SITE, -1 if empty or unknown; raises ValueError with the allowed words."""
    return _code(cell, _SITES.get(source, _SITES[_DEFAULT]), SITE)


def diagnosis_code(source: str, cell: str, verdict: str = "") -> int:
    """Returns the index into DIAGNOSIS, -1 if empty; raises ValueError with the allowed words.

    Args:
      source: Source of the word.
      cell: The word.
      verdict: The table's benign_malignant, which says what a word is that its source does not list.
    """
    known = _DIAGNOSES.get(source, _DIAGNOSES[_DEFAULT])
    if source == _OPEN and not is_missing(cell) and cell.lower() not in known.meanings:
        if _MELANOMA.search(cell):
            return DIAGNOSIS.index("melanoma")
        meaning = verdict_of(verdict)
        if meaning not in ("benign", "malignant"):
            raise ValueError("a known word, or true or false in the column that says whether it is malignant")
        return DIAGNOSIS.index(f"other {meaning}")
    return _code(cell, known, DIAGNOSIS)


def _code(cell: str, words: _WordTable, vocabulary: tuple[str, ...]) -> int:
    word = cell if words.exact else cell.lower()
    if word in words.meanings:
        meaning = words.meanings[word]
        return vocabulary.index(meaning) if meaning else MISSING
    if is_missing(cell):
        return MISSING
    raise ValueError(f"one of {', '.join(words.meanings)}, or nothing")


def deepest_level(levels: Iterable[str]) -> str:
    """Returns the most exact known one of the archive's diagnosis levels, which go from general to exact.

    "" if all are empty; the first if none is known, so that an error names it.
    """
    return _deepest(levels, _DIAGNOSES[_DEFAULT])


def deepest_site(levels: Iterable[str]) -> str:
    """Returns the most exact known one of the archive's levels of a site, as `deepest_level`."""
    return _deepest(levels, _SITES[_DEFAULT])


def _deepest(levels: Iterable[str], words: _WordTable) -> str:
    given = [level for level in levels if not is_missing(level)]
    return next((level for level in reversed(given) if level.lower() in words.meanings), given[0] if given else "")


def verdict_of(cell: str) -> str:
    """Returns the meaning of a cell of benign_malignant, "" if missing; raises ValueError with the allowed words."""
    word = cell.lower()
    if word not in _VERDICTS and not is_missing(cell):
        raise ValueError(f"one of {', '.join(_VERDICTS)}, or nothing")
    return _VERDICTS.get(word, "")


def one_hot(cells: Mapping[str, str], rest: str | None = None) -> str:
    """Returns the one class that is marked; raises ValueError if it is not exactly one.

    Args:
      cells: The cell of each class: numbers, or an X and nothing else.
      rest: Class of a row in which no other is marked.
    """
    marks = any(cell.lower() == "x" for cell in cells.values())
    one, zero = (("x",), ("",)) if marks else (("1", "1.0"), ("0", "0.0"))
    chosen = [name for name, cell in cells.items() if cell.lower() in one]
    if any(cell.lower() not in (*one, *zero) for cell in cells.values()) or len(chosen) > 1:
        chosen = []
    elif not chosen and rest is not None:
        chosen = [rest]
    if not chosen:
        least = "at most one" if rest is not None else "one"
        raise ValueError(f"{least} 1.0 and otherwise 0.0 in {', '.join(cells)}")
    return chosen[0]


def target_of(word: str, diagnosis: int, verdict: str) -> int:
    """Returns 1 for a melanoma, 0 for any other diagnosis, -1 if undetermined.

    As in ISIC 2020, a basal cell carcinoma is malignant and has target 0. A malignancy of unknown kind is undetermined.

    Args:
      word: The table's diagnosis.
      diagnosis: Its code.
      verdict: The table's benign_malignant, "" if none.

    Raises:
      ValueError: the verdict is unknown or contradicts the diagnosis; with the allowed values.
    """
    found = verdict_of(verdict)
    meaning = DIAGNOSIS[diagnosis] if diagnosis != MISSING else ""
    if found == "malignant" and meaning in _ONLY_BENIGN:
        raise ValueError(f"'benign' for the diagnosis {meaning}")
    if found == "benign" and meaning in _ONLY_MALIGNANT:
        raise ValueError(f"'malignant' for the diagnosis {meaning}")
    if diagnosis == MISSING or is_undecided(word):
        return 0 if found == "benign" else MISSING
    return int(meaning == "melanoma")


def is_undecided(word: str) -> bool:
    """Whether a word leaves open if it is a melanoma."""
    return word.lower() in _UNDECIDED
