"""Forms of published metadata tables: their columns in terms of ours.

The meaning of the words in the columns is in `vocabulary`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tfrecord_tools.metadata.vocabulary import CLASSES_2019, COLUMN_MAP

# Our columns, as a column map names them.
COLUMNS = (
    "image_name",
    "patient_id",
    "lesion_id",
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "benign_malignant",
    "target",
    "image_type",
)
LABELS = ("target", "diagnosis", "benign_malignant")  # a table with any of these is labelled
_CLASSES = CLASSES_2019[:-1]  # UNK has a column in ISIC 2019, but not in all copies of it
LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))  # of the ISIC Archive's hierarchy, general to exact


class TableError(ValueError):
    """A malformed table; the message names file, line, column, value and the allowed values."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A published table: its columns, its words and its use.

    Attributes:
      name: Its name, a value of --form.
      title: Its description.
      source: Name of the data set, for its records.
      required: Our column -> its column, all of which the header has.
      optional: Our column -> its column, used if the header has it.
      classes: One-hot columns in place of a diagnosis.
      forbidden: Columns of another table, with another meaning.
      words: The source of its words, see `vocabulary`.
      external: Not the evaluated data set, so for training only.
      has_patients: Every labelled image must have a patient.
      modality: The image_type of the images that are built unless others are asked for.
    """

    name: str
    title: str
    source: str
    required: Mapping[str, str]
    optional: Mapping[str, str]
    classes: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    words: str = "isic_archive"
    external: bool = True
    has_patients: bool = False
    modality: str = "dermoscopic"

    def columns(self, header: Sequence[str]) -> dict[str, str]:
        """Returns {our column: its column} of the columns in the header."""
        return {ours: theirs for ours, theirs in {**self.optional, **self.required}.items() if theirs in header}

    def missing(self, header: Sequence[str]) -> list[str]:
        """Returns its required columns that the header lacks."""
        return [column for column in (*self.required.values(), *self.classes) if column not in header]

    def is_labelled(self, header: Sequence[str]) -> bool:
        """Whether a table with this header has labels."""
        found = self.columns(header)
        levels = self.words == "isic_archive" and LEVELS[0] in header
        return bool(self.classes) or levels or any(ours in found for ours in LABELS)


def _same(*columns: str) -> dict[str, str]:
    return {column: column for column in columns}


_META = {"age_approx": "age_approx", "anatom_site_general_challenge": "anatom_site_general", "sex": "sex"}

# The first match is used, so the forms with more required columns come first.
FORMS: Final = (
    Form(
        name="isic2020",
        title="ISIC 2020: Kaggle's train.csv and test.csv, the ISIC site's Training_GroundTruth",
        source="isic2020",
        required=_same("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"),
        optional=_same("lesion_id", "diagnosis", "benign_malignant", "target"),
        words="isic2020",
        external=False,
        has_patients=True,
    ),
    Form(
        name="isic2020_test",
        title="ISIC 2020: the ISIC site's Test_Metadata",
        source="isic2020",
        required={"image_name": "image", "patient_id": "patient", **_META},
        optional={},
        words="isic2020",
        external=False,
    ),
    Form(
        name="isic2019",
        title="ISIC 2019: Training_GroundTruth and Training_Metadata, both files together",
        source="isic2019",
        required={"image_name": "image", **_META},
        optional=_same("lesion_id"),
        classes=_CLASSES,
        words="isic2019",
    ),
    Form(
        name="isic2019_test",
        title="ISIC 2019: Test_Metadata, without labels",
        source="isic2019",
        required={"image_name": "image", **_META},
        optional={},
        forbidden=(*_CLASSES, "lesion_id"),  # a column of Training_Metadata, which is not a test set
    ),
    Form(
        name="ham10000",
        title="HAM10000: HAM10000_metadata",
        source="ham10000",
        required={
            "image_name": "image_id",
            "lesion_id": "lesion_id",
            "diagnosis": "dx",
            "age_approx": "age",
            "sex": "sex",
            "anatom_site_general_challenge": "localization",
        },
        optional={},
        words="ham10000",
    ),
    Form(
        name="isic_archive",
        title="ISIC Archive: output of isic-cli's `isic metadata download`",
        source="isic_archive",
        required={"image_name": "isic_id"},
        optional={**_same("patient_id", "lesion_id", "diagnosis", "benign_malignant", "image_type"), **_META},
        forbidden=("target",),  # in ISIC 2024 it means any malignancy
    ),
    Form(
        name="isic_archive_labels",
        title="ISIC Archive: a label file by image_name, without patients",
        source="isic_archive",
        required=_same("image_name", "benign_malignant", "diagnosis", "sex", "age_approx"),
        optional={**_same("lesion_id", "image_type"), **_META},
        forbidden=("target", "patient_id", "anatom_site_general_challenge"),  # a Kaggle table that lost a column
    ),
)


def recognise(header: Sequence[str]) -> str:
    """Returns the name of the form with this header; raises TableError listing all forms if there is none."""
    for form in FORMS:
        if not form.missing(header) and not any(column in header for column in form.forbidden):
            return form.name
    raise TableError(f"unknown header {', '.join(header)}; expected one of\n{describe_forms(header)}")


def describe_forms(header: Sequence[str] = ()) -> str:
    """Returns a line for each form, nearest first: its name, title, columns and the ones that the header lacks."""
    lines = []
    for form in sorted(FORMS, key=lambda form: len(form.missing(header)) / len({*form.required, *form.classes})):
        missing = form.missing(header) if header else []
        refused = [column for column in form.forbidden if header and column in header]
        needs = ", ".join([*form.required.values(), *form.classes])
        notes = [f"missing {', '.join(missing)}"] if missing else []
        notes += [f"must not have {', '.join(refused)}"] if refused else []
        lines.append(f"  {form.name}: {form.title}; needs {needs}" + "".join(f" ({note})" for note in notes))
    return "\n".join([*lines, f"  {COLUMN_MAP}: any table, with --columns image_name=...,patient_id=...,target=..."])


def form_of(header: Sequence[str], name: str | None = None, columns: Mapping[str, str] | None = None) -> Form:
    """Returns the form of a table: by a column map, else by name, else recognised by its header.

    Args:
      header: Columns of the table.
      name: Name of a form.
      columns: {our column: its column}.

    Raises:
      TableError: there is no such form, or the header lacks a column of it.
    """
    if columns is not None and name not in (None, COLUMN_MAP):
        raise TableError(f"form {name!r} and a column map together; expected one of them")
    if columns is not None or name == COLUMN_MAP:
        return _mapped(header, columns or {})
    name = recognise(header) if name is None else name
    form = next((form for form in FORMS if form.name == name), None)
    if form is None:
        raise TableError(f"unknown form {name!r}; expected one of\n{describe_forms()}")
    if missing := form.missing(header):
        raise TableError(f"missing column(s) {', '.join(missing)} of form {name}; found {', '.join(header)}")
    return form


def _mapped(header: Sequence[str], given: Mapping[str, str]) -> Form:
    """The form of a column map; a column of ours that it omits keeps its name."""
    mapped = {ours: given.get(ours, ours) for ours in COLUMNS}
    absent = [f"{ours}={theirs}" for ours, theirs in given.items() if theirs and theirs not in header]
    if absent:
        raise TableError(f"--columns {', '.join(absent)}: no such column; found {', '.join(header)}")
    found = {ours: theirs for ours, theirs in mapped.items() if theirs and theirs in header}
    if "image_name" not in found:
        raise TableError(f"--columns has no image_name; found {', '.join(header)}")
    if "patient_id" not in found and "patient_id" not in given:
        raise TableError(
            "--columns has no patient_id, so folds could share a patient; "
            f"pass an empty patient_id= if the table has no patients; found {', '.join(header)}"
        )
    return Form(
        name=COLUMN_MAP,
        title="a table by its column map",
        source="other",
        required={ours: theirs for ours, theirs in found.items() if ours in given or ours == "image_name"},
        optional=found,
        words=COLUMN_MAP,
        external=False,
        has_patients="patient_id" in found,
    )


def parse_columns(text: str, names: Iterable[str] = COLUMNS) -> dict[str, str]:
    """Parses --columns: "patient_id=patient,image_name=file" -> {ours: theirs}, "" for none.

    Args:
      text: The column map.
      names: Allowed names of our columns.

    Raises:
      TableError: a part is malformed; names it.
    """
    allowed, found = tuple(names), dict[str, str]()
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not equals or ours not in allowed:
            raise TableError(f"--columns {part!r}: expected OURS=THEIRS with OURS one of {', '.join(allowed)}")
        if ours in found:
            raise TableError(f"--columns: {ours} occurs twice; expected once")
        found[ours] = theirs
    return found
