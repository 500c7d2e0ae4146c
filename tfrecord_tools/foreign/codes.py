"""Words of coded values: sex, site, diagnosis and target of foreign records.

A number means a word only in the table of its writer, and two writers rarely share one. So it is read only by words
that are stated (`parse_codes`); others are missing. The exception is a target of 0 and 1, whose key says what 1 means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tfrecord_tools.foreign.dialects import ForeignError
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.metadata.vocabulary import COLUMN_MAP
from tfrecord_tools.schema import DIAGNOSIS, MISSING, SEX, SITE

TARGETS: Final = ("other", "melanoma")  # by target
# Words of our codes, by our key; the index of a word is its code.
CODED: Final[Mapping[str, tuple[str, ...]]] = {
    "sex": SEX,
    "anatom_site_general_challenge": SITE,
    "diagnosis": DIAGNOSIS,
    "target": TARGETS,
}
Codes = Mapping[str, tuple[str, ...]]  # our key -> words in the order of the writer's codes; none: read as missing


def _target_code(source: str, word: str) -> int:
    """Returns the target of "melanoma", "other" or a diagnosis, -1 if empty; ValueError if it decides neither."""
    if word.lower() in TARGETS:
        return TARGETS.index(word.lower())
    allowed = "melanoma, other, or a diagnosis that decides whether it is a melanoma"
    try:
        found = target_of(word, vocabulary.diagnosis_code(source, word))
    except ValueError:
        raise ValueError(allowed) from None
    if word and found == MISSING:
        raise ValueError(allowed)
    return found


_CODE_OF: Final[Mapping[str, Callable[[str, str], int]]] = {
    "sex": vocabulary.sex_code,
    "anatom_site_general_challenge": vocabulary.site_code,
    "diagnosis": vocabulary.diagnosis_code,
    "target": _target_code,
}


def code_of(ours: str, word: str) -> int:
    """Returns our code of a word, -1 if missing; raises ValueError with the allowed words."""
    try:
        return _CODE_OF[ours](COLUMN_MAP, word)
    except ValueError:
        if vocabulary.is_missing(word):
            return MISSING
        raise


def target_of(word: str, diagnosis: int) -> int:
    """Returns the target that a diagnosis decides, -1 if none. diagnosis: its code."""
    return MISSING if diagnosis == MISSING else vocabulary.target_of(word, diagnosis, "")


def parse_codes(text: str) -> dict[str, tuple[str, ...]]:
    """Parses --codes: "sex=female|male,diagnosis=" -> {key: words in the order of the writer's codes}.

    A key without words is read as missing. Raises ForeignError naming the malformed part.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        ours, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or ours not in CODED:
            raise ForeignError(f"--codes {part!r}: expected KEY=WORD|WORD with KEY one of {', '.join(CODED)}")
        if ours in found:
            raise ForeignError(f"--codes: {ours} occurs twice; expected once")
        order = tuple(word.strip() for word in given.split("|")) if given else ()
        for word in order:
            try:
                code_of(ours, word)
            except ValueError as error:
                raise ForeignError(f"--codes {ours}: {word!r} is not allowed; expected {error}") from None
        found[ours] = order
    return found
