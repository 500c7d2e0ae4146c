"""Rows and images of a build: from tables and folders, from folders named by class, or from foreign TFRecords."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.builder import class_folders
from tfrecord_tools.builder.report import Warnings
from tfrecord_tools.builder.settings import BuildError, InputSpec
from tfrecord_tools.core import names, paths
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign import codes, dialects, reader, trust
from tfrecord_tools.imaging import files, hdf5
from tfrecord_tools.imaging.index import ImageIndex, ImagesError, Located
from tfrecord_tools.metadata import formats, table
from tfrecord_tools.records import shards

COMPETITION = "siim-isic-melanoma-classification"
# Kaggle has mounted competitions under the second path since 2026; older sessions have the first.
PLACES = (f"/kaggle/input/{COMPETITION}", f"/kaggle/input/competitions/{COMPETITION}", "data")

_NAMED = 4  # files that a message names one by one


@dataclasses.dataclass(frozen=True)
class Input:
    """A table and its images.

    Attributes:
      split: "train" (labelled) or "test".
      files: The CSVs and TFRecords that were read.
      frame: As `table.read_table` returns it, plus a column source: the data set of each row.
      images: Position of each row's image, None if it is not there.
      where: Folders or pattern of the images, for messages.
      form: Form of the table, or dialect of the records that replace it.
      same: Pairs of image names that belong in one fold for reasons that are not in the frame.
      quarantined: Unusable parts of foreign shards, and rows of a table whose target cannot be determined.
      lost: Number of records known to be lost with the rest of their file.
      left_out: The image_type of each row that was left out for it, by image name.
      fold_cells: Cell of --folds_from's column by image name; None if it is of another table, or there is none.
      digest: SHA-256 in place of that of the files, if these are only images.
      target_rule: Where its targets come from; "" for a test set.
      meanings: What is believed of the values of foreign shards, a text for each key.
      warnings: What was printed about it.
    """

    split: str
    files: tuple[paths.AnyPath, ...]
    frame: pd.DataFrame
    images: tuple[Located | None, ...]
    where: str
    form: str
    same: tuple[tuple[str, str], ...] = ()
    quarantined: tuple[shards.Quarantined, ...] = ()
    lost: int = 0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fold_cells: Mapping[str, str] | None = None
    digest: str | None = None
    target_rule: str = ""
    meanings: tuple[str, ...] = ()
    warnings: Warnings = dataclasses.field(default_factory=Warnings)

    @property
    def name(self) -> str:
        """Names of the files, separated by commas; the first and the last of many."""
        found = [path.name for path in self.files]
        return ",".join(found) if len(found) <= _NAMED else f"{found[0]},...,{found[-1]} ({len(found)} files)"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, or of the hashes of several files."""
        if self.digest is not None:
            return self.digest
        hashes = [shards.file_sha256(file) for file in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(",".join(hashes).encode()).hexdigest()


def find(spec: InputSpec) -> list[Input]:
    """Returns the tables to build, each with its images.

    Raises:
      BuildError: there is no input, or it cannot be used.
      table.TableError: a table is malformed.
      dialects.ForeignError: foreign TFRecords cannot be used.
    """
    try:
        return _find(spec)
    except (ImagesError, hdf5.Hdf5Error) as error:
        raise BuildError(str(error)) from error


def _find(spec: InputSpec) -> list[Input]:
    if spec.from_tfrecords is not None:
        return [_foreign_input(spec, spec.from_tfrecords)]
    if spec.images is not None:
        index = ImageIndex([paths.path(each) for each in names.several(spec.images)])
        return _class_inputs(spec, index) if spec.csv is None else [_table_input(spec, spec.split, spec.csv, index)]
    for place in map(paths.path, PLACES):
        found = {kind: (place / f"{kind}.csv", place / "jpeg" / kind) for kind in ("train", "test")}
        found = {kind: (csv, images) for kind, (csv, images) in found.items() if csv.is_file() and images.is_dir()}
        if spec.split != "auto":
            found = {kind: place for kind, place in found.items() if kind == spec.split}
        if spec.split in found or "train" in found:
            print(f"found {', '.join(str(csv) for csv, _ in found.values())}")
            return [_table_input(spec, kind, csv, ImageIndex([images])) for kind, (csv, images) in found.items()]
    looked = "\n".join(f"  {place}/train.csv with jpeg/train/ beside it (and test.csv, jpeg/test/)" for place in PLACES)
    raise BuildError(
        f"no data found. Looked for:\n{looked}\n"
        f"To get the data: accept the rules at https://www.kaggle.com/c/{COMPETITION}, then\n"
        f"  kaggle competitions download -c {COMPETITION} -p data && unzip data/{COMPETITION}.zip -d data\n"
        "To make a small synthetic data set instead:\n"
        "  python -m tfrecord_tools.synthetic --out data\n"
        "Or pass your own data with --csv and --images, or --images alone for folders named by class."
    )


def paths_read(spec: InputSpec) -> list[tuple[str, paths.AnyPath]]:
    """Returns (flag, path) of each file and folder that a build reads."""
    shard_files = reader.find(spec.from_tfrecords) if spec.from_tfrecords is not None else []
    listed = [("csv", spec.csv), ("images", spec.images), ("against", spec.against)]
    given = [(flag, each) for flag, text in listed if text for each in names.several(text)]
    given += [("duplicates", spec.duplicates)] if spec.duplicates else []
    folds_file, _ = spec.folds_column
    given += [("folds_from", str(folds_file))] if folds_file is not None else []
    given += [("from_tfrecords", each) for each in shard_files]
    return [(flag, paths.path(each)) for flag, each in given]


def _table_input(spec: InputSpec, kind: str, given: str | paths.AnyPath, index: ImageIndex | None) -> Input:
    """The rows of a table and the images of an index; without one, foreign shards have the images."""
    tables = tuple(map(paths.path, names.several(given))) if isinstance(given, str) else (given,)
    columns = formats.parse_columns(spec.columns) if spec.columns else None
    folds_file, column = spec.folds_column
    own = [column] if column and folds_file is None else []
    found = table.Table(tables, spec.form, columns, own)
    form = found.form
    if kind == "auto":
        kind = found.split
    other = _other_modalities(spec, given, form, found.image_types())
    frame, undecided = found.read(kind == "train", skip=other)
    warnings = Warnings()
    if kind == "train":
        print(f"{given}: form {form.name}; target: {found.target_rule}")
        _warn_of_patients(warnings, given, frame)
    elif found.is_labelled:
        print(f"note: {given}: --split test leaves out its targets")
    images = tuple(index.locate(frame["image_name"].tolist())) if index is not None else ()
    if index is not None and index.links and None in images:
        print(f"note: {index.links[0]}: a link to a folder, which is not followed; name the folder in --images")
    frame = frame.assign(source=spec.source or form.source)
    name = ",".join(path.name for path in tables)
    return Input(
        kind,
        tables,
        frame,
        images,
        str(index),
        form.name,
        quarantined=tuple(shards.Quarantined(image, name, str(why)) for image, why in undecided.items()),
        left_out=other,
        fold_cells=_fold_cells(found, column) if own and kind == "train" else None,
        target_rule=found.target_rule if kind == "train" else "",
        warnings=warnings,
    )


def _fold_cells(found: table.Table, column: str) -> dict[str, str]:
    try:
        return found.column(column)
    except table.TableError as error:
        raise BuildError(f"--folds_from {error}; a column of another table is FILE.csv:COLUMN") from error


def _other_modalities(
    spec: InputSpec, given: str | paths.AnyPath, form: formats.Form, types: Mapping[str, str]
) -> dict[str, str]:
    """{image name: image_type} of the images to leave out, because they are of another kind than those wanted."""
    wanted = (spec.modality or form.modality).lower()
    kinds = tuple(f"{kind.strip()}:" for kind in wanted.split(","))
    other = {
        name: found for name, found in types.items() if found and not f"{found.strip().lower()}:".startswith(kinds)
    }
    if not other or wanted == "all":
        return {}
    counts = collections.Counter(other.values())
    found = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
    if len(other) == len(types):
        raise BuildError(
            f"{given}: image_type of all {counted(len(types), 'image')} is another than {wanted} ({found}); name those "
            "to keep with --modality, or --modality all"
        )
    print(f"left out, as image_type is not {wanted}: {len(other)} of {counted(len(types), 'image')}: {found}")
    return other


def _class_inputs(spec: InputSpec, index: ImageIndex) -> list[Input]:
    """The images of folders named by class, without a table."""
    given = []
    for kind, found in class_folders.read(index, spec.split).items():
        frame = found.frame.assign(source=spec.source or class_folders.FORM)
        each = Input(kind, index.roots, frame, found.images, str(index), class_folders.FORM, digest=found.digest)
        for text in found.warnings:
            each.warnings.add(index, text)
        if kind == "train":
            each = dataclasses.replace(each, target_rule=class_folders.TARGET_RULE)
            print(f"{index}: folders named by class; target: {each.target_rule}")
            _warn_of_patients(each.warnings, index, frame)
        elif spec.split == "auto":
            alone = "build them alone if folders name theirs"
            print(f"note: {index}: the images in test become test data without targets; {alone}")
        given.append(each)
    if not given:
        raise BuildError(
            f"{index}: no image in a folder named by class; without --csv, expected {files.expected('benign/NAME')}"
        )
    return given


def _foreign_input(spec: InputSpec, pattern: str) -> Input:
    """Takes images from the records, and rows from the CSV or else from the records."""
    keys = None
    if spec.columns and (spec.csv is None or _describes_records(spec.columns)):
        keys = formats.parse_columns(spec.columns, dialects.KEYS)
        spec = dataclasses.replace(spec, columns=None)
    stated = codes.parse_codes(spec.codes) if spec.codes else {}
    shard_files = reader.find(pattern)
    found = reader.read_shards(shard_files, spec.dialect, keys, stated, images_only=spec.csv is not None)
    warnings = Warnings()
    if found.ignored and spec.source is None:
        print(f"note: {pattern}: {found.ignored}")
    if found.repeated:
        print(f"note: {pattern}: {counted(found.repeated, 'record')} left out, as the same record occurs before")
    if channels := trust.swapped_channels(found.channels, spec.swap_rb):
        warnings.add(pattern, channels)
    given = Input(
        split="train",
        files=tuple(map(paths.path, shard_files)),
        frame=found.frame,
        images=tuple(map(_located, found.places)),
        where=pattern,
        form=found.dialect,
        same=found.same,
        quarantined=tuple(shards.Quarantined(*each[:3]) for each in found.unusable),
        lost=sum(each.lost for each in found.unusable),
        warnings=warnings,
    )
    if spec.csv is not None:
        return _by_table(given, found, stated, _table_input(spec, spec.split, spec.csv, None))
    kind = _foreign_split(spec, warnings, pattern, shard_files, found)
    believed, unknown = trust.meanings(found.frame, found.codes, stated, found.dialect)
    if believed:
        print(f"note: {pattern}: believed of its values: {'; '.join(believed)}")
    if unknown:
        warnings.add(pattern, trust.unexplained(unknown))
    _warn_of_codes(spec, warnings, pattern, found.frame)
    frame = found.frame if kind == "train" else found.frame.assign(target=schema.MISSING, diagnosis=schema.MISSING)
    frame = frame.assign(source=spec.source or list(found.sources))
    return dataclasses.replace(given, split=kind, frame=frame, meanings=tuple(believed))


def _describes_records(columns: str) -> bool:
    """Whether a column map is of records: no table has a column for the bytes of the image."""
    return any(part.partition("=")[0].strip() == "image" for part in columns.split(","))


def _by_table(given: Input, found: reader.ForeignShards, stated: codes.Codes, rows: Input) -> Input:
    """The images of foreign shards with the rows of a table."""
    given.warnings.extend(rows.warnings)
    stays = ~found.frame["image_name"].isin([*rows.left_out, *(each.image_name for each in rows.quarantined)])
    frame, written = (each[stays].reset_index(drop=True) for each in (found.frame, found.codes))
    frame = trust.with_table(frame, written, rows.frame, stated)
    believed = ["everything except the images: the table"]
    if proof := trust.by_table(written, frame):
        print(f"note: {given.where}: {proof}")
        believed.append(proof)
    return dataclasses.replace(
        given,
        split=rows.split,
        files=(*rows.files, *given.files),
        frame=frame,
        images=tuple(itertools.compress(given.images, stays)),
        form=rows.form,
        quarantined=(*given.quarantined, *rows.quarantined),
        left_out=rows.left_out,
        fold_cells=rows.fold_cells,
        target_rule=rows.target_rule,
        meanings=tuple(believed),
    )


def _located(place: reader.Place) -> Located:
    return Located(f"{os.path.basename(place.path)}: record {place.record}", place.path, place.part, place.origin)


def _foreign_split(
    spec: InputSpec, warnings: Warnings, pattern: str, shard_files: Sequence[str], found: reader.ForeignShards
) -> str:
    """The split of records without a table; BuildError if their codes or targets do not allow it."""
    if found.doubts:
        raise BuildError(
            f"{pattern}: the codes in these records cannot be trusted:\n  " + "\n  ".join(found.doubts) + "\n"
            "Give the table of the images with --csv, or the words of the codes as "
            "--codes 'sex=female|male,target=other|melanoma|...', or no words after the = to read them as missing"
        )
    kind = spec.split
    if kind == "auto":
        kind = "train" if found.labelled else "test"
    if kind == "train" and not found.labelled:
        raise BuildError(f"{pattern}: --split train, but the records have no target")
    if kind == "train":
        _warn_of_patients(warnings, pattern, found.frame, ". Give the table of the images with --csv")
        if spec.split == "auto" and any(os.path.basename(file).startswith("test") for file in shard_files):
            print(f"note: {pattern}: has targets, so it becomes training data; --split test leaves them out")
    elif found.labelled:
        print(f"note: {pattern}: --split test leaves out its targets")
    return kind


_SHARE = 0.05  # of all images, above which one patient is suspicious; the largest of ISIC 2020 has 0.3 %
_TIMES = 10  # as many images as the median patient has


def _warn_of_patients(warnings: Warnings, where: object, frame: pd.DataFrame, advice: str = "") -> None:
    for column in ("patient", "lesion"):
        sizes = frame[column][frame[column] != ""].value_counts()
        median = statistics.median([*sizes.tolist(), *[1] * int((frame[column] == "").sum())])
        if len(sizes) and sizes.iloc[0] > _SHARE * len(frame) and sizes.iloc[0] >= _TIMES * median:
            share = f"{column} {sizes.index[0]!r} has {sizes.iloc[0]} of {counted(len(frame), 'image')}"
            remedy = f"if it stands for a missing {column}, empty its cells"
            warnings.add(where, f"{share}, the median {column} {median:g}; {remedy}")
    unnamed = frame[frame["patient"] == ""]
    if unnamed.empty:
        return
    number = f"{len(unnamed)} of {len(frame)} images {verb(len(unnamed), 'names', 'name')} no patient"
    who = "no image names a patient" if len(unnamed) == len(frame) else number
    by = "lesion" if (unnamed["lesion"] != "").any() else "image"
    warnings.add(where, f"{who}: folded by {by}, so two folds may share a patient{advice}")


def _warn_of_codes(spec: InputSpec, warnings: Warnings, pattern: str, frame: pd.DataFrame) -> None:
    coded = frame["patient"][frame["patient"].str.startswith(schema.CODE)]
    if coded.empty:
        return
    number = counted(coded.nunique(), "patient")
    are = f"{number} {verb(coded.nunique(), 'is a number', 'are numbers')} of this writer's table ({coded.iloc[0]})"
    text = f"{are}, comparable with no other file"
    if spec.against:
        text += f": patients shared with {spec.against} are not recognized, so training and test may share one"
    warnings.add(pattern, f"{text}; give --csv")


def images_of(given: Input, groups: list[str]) -> list[shards.Source]:
    """Returns the source of each row's image. groups: the leak group of each row."""
    return list(_sources(given, groups))


def _sources(given: Input, groups: list[str]) -> Iterator[shards.Source]:
    for row, group, place in zip(given.frame.to_dict("records"), groups, given.images, strict=True):
        values = {str(key): value for key, value in row.items()}
        if place is None:
            missing = f"{values['image_name']}{files.EXTENSIONS[0]}"
            yield shards.Source(file=missing, path=None, group=group, **values)
        else:
            yield shards.Source(group=group, **place._asdict(), **values)


def check_any(given: Input, chosen: Sequence[shards.Source]) -> None:
    """Raises BuildError if no image is chosen, or none of the chosen ones exists."""
    if not chosen:
        raise BuildError(f"{given.name}: nothing is left to build")
    if all(source.path is None for source in chosen):
        left = "in all" if len(chosen) == len(given.frame) else "without those that are left out"
        raise BuildError(
            f"{given.where}: holds none of the images of {given.name}, {len(chosen)} {left}; expected files like "
            f"{files.expected(chosen[0].image_name)}"
        )
