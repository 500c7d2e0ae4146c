"""Form of a table: recognized by its header, named, or given by a column map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tfrecord_tools.metadata.forms import ARCHIVE_LEVELS, COLUMNS, FORMS, ISIC2024_LEVELS, ISIC2024_MARK, Form
from tfrecord_tools.metadata.vocabulary import COLUMN_MAP, TARGETS
from tfrecord_tools.schema import IMAGE_NAME

_LISTED = 4  # forms in the error for an unknown header, nearest first
KNOWN = frozenset().union(*(form.known for form in FORMS))  # columns that some form reads
_LABEL_COLUMNS = frozenset().union(*(form.label_columns for form in FORMS))


class TableError(ValueError):
    """A malformed table; the message names file, line, column, value and the allowed values."""


def recognize(header: Sequence[str]) -> str:
    """Returns the name of the form with this header; raises TableError listing the nearest forms if there is none."""
    for form in FORMS:
        if not form.missing(header) and not form.refused(header):
            return form.name
    raise TableError(f"unknown header {_listed(header)}; expected one of\n{describe_forms(header)}")


def is_header(cells: Sequence[str]) -> bool:
    """Whether these cells are the header of a published table."""
    return any(not form.missing(cells) and not form.refused(cells) for form in FORMS)


def implied_header(cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of the form that has no header and such rows; () if there is none."""
    for form in FORMS:
        label = cells[-1].lower() in (*form.target_words, *TARGETS)
        named = IMAGE_NAME.fullmatch(cells[0]) and any(map(str.isdigit, cells[0]))  # as no name of a column is
        if label and named and len(cells) == len(form.header):
            return form.header
    return ()


def describe_forms(header: Sequence[str] = ()) -> str:
    """Returns a line for each of the nearest forms: its name, title, columns and the ones that the header lacks."""
    ranked = sorted(FORMS, key=lambda form: (-len(form.known.intersection(header)), len(form.missing(header))))
    lines = []
    for form in ranked[:_LISTED] if header else FORMS:
        missing = form.missing(header) if header else []
        refused = form.refused(header)
        notes = [f"missing {', '.join(missing)}"] if missing else []
        notes += [f"must not have {', '.join(refused)}"] if refused else []
        needs = ", ".join(form.missing([]))
        lines.append(f"  {form.name}: {form.title}; needs {needs}" + "".join(f" ({note})" for note in notes))
    if header:
        lines.append(f"  {', '.join(form.name for form in ranked[_LISTED:])}: see docs/data/sources.md")
    return "\n".join([*lines, f"  {COLUMN_MAP}: any table, with --columns image_name=...,patient_id=...,target=..."])


def form_of(header: Sequence[str], name: str | None = None, columns: Mapping[str, str] | None = None) -> Form:
    """Returns the form of a table: by a column map, else by name, else recognized by its header.

    Args:
      header: Columns of the table.
      name: Name of a form.
      columns: {our column: its column}.

    Raises:
      TableError: there is no such form, or the table is not of it.
    """
    if columns is not None and name not in (None, COLUMN_MAP):
        raise TableError(f"form {name!r} and a column map together; expected one of them")
    if columns is not None or name == COLUMN_MAP:
        return _mapped(header, columns or {})
    name = recognize(header) if name is None else name
    form = next((form for form in FORMS if form.name == name), None)
    if form is None:
        raise TableError(f"unknown form {name!r}; expected one of\n{describe_forms()}")
    if missing := form.missing(header):
        raise TableError(f"missing column(s) {', '.join(missing)} of form {name}; found {_listed(header)}")
    if refused := form.refused(header):
        instead = f"; it is of form {recognize(header)}" if is_header(header) else ""
        raise TableError(
            f"column(s) {', '.join(refused)}, which a table of form {name} does not have{instead}; leave out --form, "
            "or map its columns with --columns"
        )
    return form


def unread_labels(form: Form, header: Sequence[str]) -> list[str]:
    """Returns the columns that look like labels in a table whose form reads none."""
    if form.is_labelled(header):
        return []
    return [column for column in header if column in _LABEL_COLUMNS]


def _listed(header: Sequence[str]) -> str:
    shown = list(header[:20])  # ISIC 2024 has 55
    return ", ".join([*shown, f"... ({len(header)} columns)"] if len(header) > len(shown) else shown)


def _mapped(header: Sequence[str], given: Mapping[str, str]) -> Form:
    """The form of a column map; a column of ours that it omits keeps its name."""
    mapped = {ours: given.get(ours, ours) for ours in COLUMNS}
    absent = [f"{ours}={theirs}" for ours, theirs in given.items() if theirs and theirs not in header]
    if absent:
        raise TableError(f"--columns {', '.join(absent)}: no such column; found {_listed(header)}")
    found = {ours: theirs for ours, theirs in mapped.items() if theirs and theirs in header}
    if "image_name" not in found:
        raise TableError(f"--columns has no image_name; found {_listed(header)}")
    if "patient_id" not in found and "patient_id" not in given:
        raise TableError(
            "--columns has no patient_id, so folds could share a patient; "
            f"pass an empty patient_id= if the table has no patients; found {_listed(header)}"
        )
    levels = next((each for each in (ARCHIVE_LEVELS, ISIC2024_LEVELS) if each[0] in header), ())
    if found.get("target") == "target" and ISIC2024_MARK in header and not levels and "diagnosis" not in found:
        raise TableError(
            "column target of ISIC 2024 means any malignancy, and no diagnosis is beside it; expected iddx_full, so "
            "take the table as published, or pass --columns ...,target= --split test"
        )
    return Form(
        name=COLUMN_MAP,
        title="a table by its column map",
        source="other",
        required={ours: theirs for ours, theirs in found.items() if ours in given or ours == "image_name"},
        optional=found,
        levels=() if given.get("diagnosis") == "" else levels,
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
