"""Words of every source in terms of our vocabularies, and the targets that follow from them.

docs/data/sources.md lists these tables, as printed by `python -m tfrecord_tools.metadata.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tfrecord_tools.schema import DIAGNOSIS, MISSING, SEX, SITE

COLUMN_MAP = "columns"  # the words of all sources, for a table with a column map
CLASSES: Final = {1: "melanoma", 0: "other", MISSING: "unlabelled"}  # by target; html/page.py colours by these words
CLASSES_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")  # one-hot columns; UNK may be absent

# Cells that stand for a missing identifier (of an image, patient or lesion), in lower case. "0" may be a real one.
MISSING_WORDS: Final = frozenset(
    {
        *("", "-", "--", "?", "??", ".", "-1", "-1.0", "-9", "-99", "-999", "-9999"),
        *("nan", "none", "null", "nil", "nat", "<na>", "na", "n/a", "#n/a", "n.a.", "n.a", "not available"),
        *("unknown", "unk", "unspecified", "undefined", "not known", "not specified", "missing", "empty", "anonymous"),
    }
)

# Word as published -> word of the vocabulary, "" for missing. Case is ignored, except in ISIC 2020.

_ALL_SEX: Final = {**{word: word for word in SEX}, "unknown": ""}
_SEX: Final[Mapping[str, Mapping[str, str]]] = {
    "isic2020": {word: word for word in SEX},
    "isic2019": _ALL_SEX,
    "ham10000": _ALL_SEX,
    "isic_archive": _ALL_SEX,
}

# ISIC 2019 and the ISIC Archive divide the torso.
_DIVIDED_TORSO: Final = {
    **{word: word for word in SITE},
    **dict.fromkeys(("anterior torso", "posterior torso", "lateral torso"), "torso"),
}
_SITE: Final[Mapping[str, Mapping[str, str]]] = {
    "isic2020": {word: word for word in SITE},
    "isic2019": _DIVIDED_TORSO,
    "isic_archive": _DIVIDED_TORSO,
    # As ISIC 2019 maps the same images, except trunk and genital, which it leaves empty.
    "ham10000": {
        "scalp": "head/neck",
        "face": "head/neck",
        "ear": "head/neck",
        "neck": "head/neck",
        "upper extremity": "upper extremity",
        "hand": "upper extremity",
        "lower extremity": "lower extremity",
        "foot": "lower extremity",
        "trunk": "torso",
        "chest": "torso",
        "abdomen": "torso",
        "back": "torso",
        "acral": "palms/soles",
        "genital": "oral/genital",
        "unknown": "",
    },
}

_DIAGNOSIS: Final[Mapping[str, Mapping[str, str]]] = {
    "isic2020": {word: word for word in DIAGNOSIS},
    # https://challenge.isic-archive.com/landing/2019/
    "isic2019": {
        "MEL": "melanoma",
        "NV": "nevus",
        "BCC": "basal cell carcinoma",
        "AK": "actinic keratosis",
        "BKL": "benign keratosis",
        "DF": "dermatofibroma",
        "VASC": "vascular lesion",
        "SCC": "squamous cell carcinoma",
        "UNK": "unknown",
    },
    # Tschandl et al. 2018, https://doi.org/10.1038/sdata.2018.161. Of the 327 akiec, ISIC 2019 has 130 as AK and 197
    # as SCC.
    "ham10000": {
        "akiec": "actinic keratosis or intraepithelial carcinoma",
        "bcc": "basal cell carcinoma",
        "bkl": "benign keratosis",
        "df": "dermatofibroma",
        "mel": "melanoma",
        "nv": "nevus",
        "vasc": "vascular lesion",
    },
    # The archive's `diagnosis` (LegacyDxEnum of isic-metadata 4.12) ...
    "isic_archive": {
        "unknown": "unknown",
        "other": "unknown",
        "adnexal tumor": "unknown",  # may be benign or malignant
        "nevus": "nevus",
        "nevus spilus": "nevus",
        "melanoma": "melanoma",
        "melanoma metastasis": "melanoma",
        "seborrheic keratosis": "seborrheic keratosis",
        "lentigo NOS": "lentigo NOS",
        "lentigo simplex": "lentigo NOS",
        "lichenoid keratosis": "lichenoid keratosis",
        "solar lentigo": "solar lentigo",
        "cafe-au-lait macule": "cafe-au-lait macule",
        "atypical melanocytic proliferation": "atypical melanocytic proliferation",
        "AIMP": "atypical melanocytic proliferation",
        "atypical spitz tumor": "atypical melanocytic proliferation",
        "basal cell carcinoma": "basal cell carcinoma",
        "squamous cell carcinoma": "squamous cell carcinoma",
        "actinic keratosis": "actinic keratosis",
        "pigmented benign keratosis": "benign keratosis",
        "dermatofibroma": "dermatofibroma",
        "vascular lesion": "vascular lesion",
        "angioma": "vascular lesion",
        "angiokeratoma": "vascular lesion",
        "pyogenic granuloma": "vascular lesion",
        "acrochordon": "other benign",
        "angiofibroma or fibrous papule": "other benign",
        "clear cell acanthoma": "other benign",
        "ephelis": "other benign",
        "epidermal nevus": "other benign",
        "mucosal melanosis": "other benign",
        "neurofibroma": "other benign",
        "scar": "other benign",
        "sebaceous adenoma": "other benign",
        "sebaceous hyperplasia": "other benign",
        "verruca": "other benign",
        "merkel cell carcinoma": "other malignant",
        # ... and its `diagnosis_1` to `diagnosis_5` (DiagnosisEnum): the deepest level in this table counts.
        "Benign": "other benign",
        "Indeterminate": "unknown",
        "Malignant": "other malignant",
        "Benign soft tissue proliferations - Vascular": "vascular lesion",
        "Hemorrhagic lesions": "vascular lesion",  # as HAM10000's vasc
        "Indeterminate melanocytic proliferations": "atypical melanocytic proliferation",
        "Malignant melanocytic proliferations (Melanoma)": "melanoma",
        "Lichen planus like keratosis": "lichenoid keratosis",
        "Cafe au lait macule or patch": "cafe-au-lait macule",
        "Solar or actinic keratosis": "actinic keratosis",
        "Squamous cell carcinoma in situ": "squamous cell carcinoma",
        "Squamous cell carcinoma, Invasive": "squamous cell carcinoma",
        "Squamous cell carcinoma, NOS": "squamous cell carcinoma",
    },
}

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
_VERDICTS = ("benign", "malignant", "indeterminate", "indeterminate/benign", "indeterminate/malignant")
# Words that may or may not be a melanoma; `benign_malignant` decides.
_UNDECIDED = frozenset({"", "unknown", "other", "adnexal tumor", "malignant", "indeterminate"})


class _WordTable(NamedTuple):
    """Meanings of a source's words. exact: case matters, as in Kaggle's tables; else the keys are in lower case."""

    meanings: Mapping[str, str]
    exact: bool


def _tables(published: Mapping[str, Mapping[str, str]]) -> dict[str, _WordTable]:
    """The word table of each source, and their union as COLUMN_MAP."""
    union = {word: meaning for words in published.values() for word, meaning in words.items()}
    return {
        name: _WordTable(
            words if name == "isic2020" else {word.lower(): words[word] for word in words}, name == "isic2020"
        )
        for name, words in {**published, COLUMN_MAP: union}.items()
    }


_SEXES, _SITES, _DIAGNOSES = _tables(_SEX), _tables(_SITE), _tables(_DIAGNOSIS)


def is_missing(identifier: str) -> bool:
    """Whether a cell names no image, patient or lesion."""
    return identifier.strip().lower() in MISSING_WORDS


def sex_code(source: str, cell: str) -> int:
    """Returns the index into SEX, -1 if empty or unknown; raises ValueError with the allowed words."""
    return _code(cell, _SEXES[source], SEX)


def site_code(source: str, cell: str) -> int:
    """Returns the index into SITE, -1 if empty or unknown; raises ValueError with the allowed words."""
    return _code(cell, _SITES[source], SITE)


def diagnosis_code(source: str, cell: str) -> int:
    """Returns the index into DIAGNOSIS, -1 if empty; raises ValueError with the allowed words."""
    return _code(cell, _DIAGNOSES[source], DIAGNOSIS)


def _code(cell: str, words: _WordTable, vocabulary: tuple[str, ...]) -> int:
    if not cell:
        return MISSING
    word = cell if words.exact else cell.lower()
    if word not in words.meanings:
        raise ValueError(f"one of {', '.join(words.meanings)}, or nothing")
    meaning = words.meanings[word]
    return vocabulary.index(meaning) if meaning else MISSING


def deepest_level(levels: Iterable[str]) -> str:
    """Returns the most exact known one of the archive's diagnosis levels, which go from general to exact.

    "" if all are empty; the first if none is known, so that an error names it.
    """
    given = [level for level in levels if level]
    known = _DIAGNOSES["isic_archive"].meanings
    return next((level for level in reversed(given) if level.lower() in known), given[0] if given else "")


def one_hot(cells: Mapping[str, str]) -> str:
    """Returns the one class of ISIC 2019 that is 1.0; raises ValueError if it is not exactly one."""
    values = {name: cells[name] for name in CLASSES_2019 if name in cells}
    chosen = [name for name, cell in values.items() if cell in ("1", "1.0")]
    if len(chosen) != 1 or any(cell not in ("0", "0.0", "1", "1.0") for cell in values.values()):
        raise ValueError(f"one 1.0 and otherwise 0.0 in {', '.join(values)}")
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
    if verdict and verdict not in _VERDICTS:
        raise ValueError(f"one of {', '.join(_VERDICTS)}, or nothing")
    meaning = DIAGNOSIS[diagnosis] if diagnosis != MISSING else ""
    if verdict == "malignant" and meaning in _ONLY_BENIGN:
        raise ValueError(f"'benign' for the diagnosis {meaning}")
    if verdict == "benign" and meaning in _ONLY_MALIGNANT:
        raise ValueError(f"'malignant' for the diagnosis {meaning}")
    if word.lower() in _UNDECIDED:
        return 0 if verdict == "benign" else MISSING
    return int(meaning == "melanoma")


def vocabulary_markdown() -> str:
    """Returns each code of a diagnosis and the words that map to it, as a Markdown table of docs/data/records.md."""
    union: dict[str, dict[str, None]] = {name: {} for name in DIAGNOSIS}  # a dict keeps the order
    for published in _DIAGNOSIS.values():
        for word, meaning in published.items():
            union[meaning][word] = None
    lines = ["| code | diagnosis | words that become it |", "| ---: | --- | --- |"]
    for code, name in enumerate(DIAGNOSIS):
        lines.append(f"| {code} | {name} | {'; '.join(word for word in union[name] if word != name) or '–'} |")
    return "\n".join(lines) + "\n"


def mapping_markdown() -> str:
    """Returns the mapping of every source's words to the vocabularies, as the tables of docs/data/sources.md."""
    tables = (("sex", _SEX, SEX), ("site", _SITE, SITE), ("diagnosis", _DIAGNOSIS, DIAGNOSIS))
    lines: list[str] = []
    for title, published, vocabulary in tables:
        more = " target |" if vocabulary is DIAGNOSIS else ""
        lines += ["", f"| source | its {title} | ours | code |{more}", "|" + " --- |" * (5 if more else 4)]
        for source, words in published.items():
            for word, meaning in words.items():
                code = vocabulary.index(meaning) if meaning else MISSING
                target = f" {_described_target(source, word, meaning)} |" if more else ""
                lines.append(f"| {source} | {word} | {meaning or '(missing)'} | {code} |{target}")
    return "\n".join(lines[1:]) + "\n"


def _described_target(source: str, word: str, meaning: str) -> str:
    if source == "isic2020":
        return "its own"
    return "by benign_malignant" if word.lower() in _UNDECIDED else str(int(meaning == "melanoma"))


if __name__ == "__main__":
    print(vocabulary_markdown() + "\n" + mapping_markdown(), end="")
