"""Images without a table, in one folder per class."""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from tfrecord_tools.builder.settings import BuildError
from tfrecord_tools.core import names
from tfrecord_tools.core.text import counted
from tfrecord_tools.imaging.index import ImageIndex, Located
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.schema import DIAGNOSIS, MISSING

FORM = "class_folders"
TARGET_RULE = "1 = melanoma, by the folder, malignant among them"
# First words of folders above or below the classes, such as train_sep. Folds replace a validation set.
_SPLITS = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that give a target and no diagnosis.
_TARGETS = {
    "benign": 0,
    "malignant": 1,
    **dict.fromkeys(("not melanoma", "non melanoma", "notmelanoma", "nonmelanoma"), 0),
}
_EXPECTED = f"{', '.join(_TARGETS)}, or a diagnosis: {', '.join(word for word in DIAGNOSIS if word != 'unknown')}"


class _Class(NamedTuple):
    """What a folder says of its images."""

    word: str
    diagnosis: int
    target: int


_NO_CLASS = _Class("", MISSING, MISSING)


class Found(NamedTuple):
    """The images of one split.

    Attributes:
      frame: Rows as `table.read_table` returns them.
      images: Position of each row's image.
      digest: SHA-256 of the names, folders and classes, in place of that of a table.
      warnings: What the words of the folders leave open.
    """

    frame: pd.DataFrame
    images: tuple[Located | None, ...]
    digest: str
    warnings: tuple[str, ...]


def read(index: ImageIndex, split: str) -> dict[str, Found]:
    """Returns the images of each split, labelled by the folders that they lie in.

    Args:
      index: The images.
      split: "train" or "test" for all of them; "auto" for test where a folder is named so, train elsewhere. Images of
        test have no label, whatever their folders.

    Raises:
      BuildError: a folder of training images is no word for a class, or such an image is in none.
    """
    files = index.files
    kinds = [_split_of(file) if split == "auto" else split for file in files]
    classes = [_class_of(index, file) if kinds[at] == "train" else _NO_CLASS for at, file in enumerate(files)]
    named = {each.word for each in classes if each is not _NO_CLASS}
    warnings = []
    if "malignant" in named:
        if named & {word for word in named if word not in _TARGETS}:
            raise BuildError(
                f"{index}: folder 'malignant' beside folders named by a diagnosis: it is not clear whether its images "
                "are melanomas; name it melanoma, or other malignant"
            )
        warnings.append("the images in malignant are taken for melanomas (target 1); put others in a folder of theirs")
    image_names = _names(index, files)
    found = {}
    for kind in ("train", "test"):
        chosen = [at for at, each in enumerate(kinds) if each == kind]
        if chosen:
            rows = [_row(image_names[at], classes[at]) for at in chosen]
            listing = "\n".join(f"{image_names[at]}\t{files[at].file}" for at in chosen)
            digest = hashlib.sha256(listing.encode()).hexdigest()
            images = tuple(files[at] for at in chosen)
            found[kind] = Found(pd.DataFrame(rows), images, digest, tuple(warnings) if kind == "train" else ())
    return found


def _folders(file: Located) -> list[str]:
    return file.file.split("/")[:-1]


def _root(file: Located) -> str:
    """Name of the given folder."""
    return file.path[: -len(file.file)].rstrip("/").rpartition("/")[2]


def _split_of(file: Located) -> str:
    return "test" if "test" in map(_split_word, _folders(file)) else "train"


def _split_word(folder: str) -> str | None:
    """The split that a folder is named by, if any."""
    return _SPLITS.get(_word(folder).partition(" ")[0])


def _word(folder: str) -> str:
    return re.sub(r"[ _-]+", " ", folder).strip().lower()


def _class_of(index: ImageIndex, file: Located) -> _Class:
    """The class of the innermost folder; those around it may not contradict it."""
    inside = [folder for folder in _folders(file) if _split_word(folder) is None]
    given = inside or [_root(file)]
    meanings = [meaning for meaning in map(_meaning, given) if meaning is not None]
    if len(meanings) < len(given):
        if not inside:
            raise BuildError(
                f"{index}: --images without --csv expects folders named by class, and {file.path} is in none; give the "
                "table with --csv, build them without targets with --split test, or put them in a folder test, or make "
                f"folders: {_EXPECTED}"
            )
        unknown = next(folder for folder in given if _meaning(folder) is None)
        raise BuildError(
            f"{file.path}: folder {unknown!r} does not say whether its images are melanomas; expected one of: "
            f"{_EXPECTED}"
        )
    *around, innermost = meanings
    for outer in around:
        if outer.target != innermost.target and outer.word != "malignant":
            raise BuildError(f"{file.path}: folder {innermost.word!r} within {outer.word!r}, which contradicts it")
    return innermost


def _meaning(folder: str) -> _Class | None:
    """The class that a folder is named by; None if that does not say whether it is a melanoma."""
    word = _word(folder)
    if word in _TARGETS:
        return _Class(word, MISSING, _TARGETS[word])
    for spelling in (folder, word, word.replace(" ", "-")):
        try:
            diagnosis = vocabulary.diagnosis_code(vocabulary.COLUMN_MAP, spelling)
        except ValueError:
            continue
        meaning = DIAGNOSIS[diagnosis] if diagnosis != MISSING else "unknown"
        if meaning != "unknown":
            return _Class(word, diagnosis, int(meaning == "melanoma"))
    return None


def _names(index: ImageIndex, files: Sequence[Located]) -> list[str]:
    """A name for each image: of its file, or with its folders where two files have one name."""
    stems = [_clean(file.file.rpartition("/")[2]) for file in files]
    count = collections.Counter(stems)
    above = [f"{_root(file)}/" if len(index.roots) > 1 else "" for file in files]
    chosen = [
        stem if count[stem] == 1 and not vocabulary.is_missing(stem) else _clean(folder + file.file)
        for stem, file, folder in zip(stems, files, above, strict=True)
    ]
    twice = [name for name, number in collections.Counter(chosen).items() if number > 1]
    if twice:
        same = " and ".join(file.path for file, name in zip(files, chosen, strict=True) if name == twice[0])
        raise BuildError(
            f"{index}: {counted(len(twice), 'name')} of several images, first {twice[0]}: {same}; rename one of them"
        )
    return chosen


def _clean(file: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", names.without_extension(file))


def _row(name: str, label: _Class) -> dict[str, str | int]:
    return {
        "image_name": name,
        "patient": "",
        "lesion": "",
        "sex": MISSING,
        "age_approx": MISSING,
        "anatom_site_general_challenge": MISSING,
        "diagnosis": label.diagnosis,
        "target": label.target,
    }
