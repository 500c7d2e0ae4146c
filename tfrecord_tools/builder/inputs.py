"""Rows and images of a build: from tables and folders, or from foreign TFRecords."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.builder.settings import BuildError, InputSpec
from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign import dialects, reader
from tfrecord_tools.imaging import files
from tfrecord_tools.metadata import formats, table
from tfrecord_tools.records import shards

COMPETITION = "siim-isic-melanoma-classification"
# Kaggle has mounted competitions under the second path since 2026; older sessions have the first.
PLACES = (f"/kaggle/input/{COMPETITION}", f"/kaggle/input/competitions/{COMPETITION}", "data")


@dataclasses.dataclass(frozen=True)
class Input:
    """A table and its images.

    Attributes:
      split: "train" (labelled) or "test".
      files: The CSVs and TFRecords that were read.
      frame: As `table.read_table` returns it, plus a column source: the data set of each row.
      images: Their folder, or the place of each row's image in foreign shards.
      form: Form of the table, or dialect of the records that replace it.
      same: Pairs of image names that belong in one fold for reasons that are not in the frame.
      quarantined: Unusable parts of foreign shards.
      lost: Number of records known to be lost with the rest of their file.
    """

    split: str
    files: tuple[paths.AnyPath, ...]
    frame: pd.DataFrame
    images: paths.AnyPath | tuple[reader.Place, ...]
    form: str
    same: tuple[tuple[str, str], ...] = ()
    quarantined: tuple[shards.Quarantined, ...] = ()
    lost: int = 0

    @property
    def name(self) -> str:
        """Names of the files, separated by commas."""
        return ",".join(path.name for path in self.files)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, or of the hashes of several files."""
        hashes = [shards.file_sha256(file) for file in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(",".join(hashes).encode()).hexdigest()


def find(spec: InputSpec) -> list[Input]:
    """Returns the tables to build, each with its images.

    Raises:
      BuildError: there is no input, or it cannot be used.
      table.TableError: a table is malformed.
      dialects.ForeignError: foreign TFRecords cannot be used.
    """
    if spec.from_tfrecords is not None:
        return [_foreign_input(spec, spec.from_tfrecords)]
    if spec.csv is not None and spec.images is not None:
        return [_table_input(spec, spec.split, spec.csv, paths.path(spec.images))]
    for place in map(paths.path, PLACES):
        found = {kind: (place / f"{kind}.csv", place / "jpeg" / kind) for kind in ("train", "test")}
        found = {kind: (csv, images) for kind, (csv, images) in found.items() if csv.is_file() and images.is_dir()}
        if spec.split != "auto":
            found = {kind: place for kind, place in found.items() if kind == spec.split}
        if spec.split in found or "train" in found:
            print(f"found {', '.join(str(csv) for csv, _ in found.values())}")
            return [_table_input(spec, kind, csv, images) for kind, (csv, images) in found.items()]
    looked = "\n".join(f"  {place}/train.csv with jpeg/train/ beside it (and test.csv, jpeg/test/)" for place in PLACES)
    raise BuildError(
        f"no data found. Looked for:\n{looked}\n"
        f"To get the data: accept the rules at https://www.kaggle.com/c/{COMPETITION}, then\n"
        f"  kaggle competitions download -c {COMPETITION} -p data && unzip data/{COMPETITION}.zip -d data\n"
        "To make a small synthetic data set instead:\n"
        "  python -m tfrecord_tools.synthetic --out data\n"
        "Or pass your own data with --csv and --images."
    )


def paths_read(spec: InputSpec) -> list[tuple[str, paths.AnyPath]]:
    """Returns (flag, path) of each file and folder that a build reads."""
    tables = spec.csv.split(",") if spec.csv else []
    shard_files = reader.find(spec.from_tfrecords) if spec.from_tfrecords is not None else []
    named = [("images", spec.images), ("duplicates", spec.duplicates)]
    given = [("csv", each) for each in tables] + [(flag, each) for flag, each in named if each]
    given += [("from_tfrecords", each) for each in shard_files]
    return [(flag, paths.path(each)) for flag, each in given] + [("against", each) for each in spec.excluded_builds]


def _table_input(
    spec: InputSpec, kind: str, given: str | paths.AnyPath, images: paths.AnyPath | tuple[reader.Place, ...]
) -> Input:
    tables = tuple(map(paths.path, given.split(","))) if isinstance(given, str) else (given,)
    columns = formats.parse_columns(spec.columns) if spec.columns else None
    if kind == "auto":
        kind = "train" if table.is_labelled(tables, spec.form, columns) else "test"
    form = table.form_of(tables, spec.form, columns)
    frame = table.read_table(tables, kind == "train", spec.form, columns)
    if kind == "train":
        _warn_of_patients(given, frame)
    elif table.is_labelled(tables, spec.form, columns):
        print(f"note: {given}: --split test leaves out its targets")
    return Input(kind, tables, frame.assign(source=spec.source or form.source), images, form.name)


def _foreign_input(spec: InputSpec, pattern: str) -> Input:
    """Takes images from the records, and rows from the CSV or else from the records."""
    keys = None
    if spec.columns and not spec.csv:
        keys = formats.parse_columns(spec.columns, dialects.KEYS)
    codes = dialects.parse_codes(spec.codes) if spec.codes else {}
    files = reader.find(pattern)
    found = reader.read_shards(files, spec.dialect, keys, codes, images_only=spec.csv is not None)
    same, quarantined = found.same, tuple(shards.Quarantined(*each[:3]) for each in found.unusable)
    lost = sum(each.lost for each in found.unusable)
    for shard, channels in found.channels.items():
        if channels.images and channels.swapped != spec.swap_rb:
            advice = "leave out" if spec.swap_rb else "give"
            print(f"warning: {shard}: {channels}. Look at a few of its images, and {advice} --swap_rb if it is so")
    if spec.csv is not None:
        rows = _table_input(spec, spec.split, spec.csv, found.places)
        frame = reader.with_table(found.frame, rows.frame)
        read = (*rows.files, *map(paths.path, files))
        return dataclasses.replace(rows, frame=frame, files=read, same=same, quarantined=quarantined, lost=lost)
    kind = _foreign_split(spec, pattern, files, found)
    _warn_of_codes(spec, pattern, found.frame)
    frame = found.frame if kind == "train" else found.frame.assign(target=schema.MISSING, diagnosis=schema.MISSING)
    frame = frame.assign(source=spec.source or list(found.sources))
    return Input(kind, tuple(map(paths.path, files)), frame, found.places, found.dialect, same, quarantined, lost)


def _foreign_split(spec: InputSpec, pattern: str, files: Sequence[str], found: reader.ForeignShards) -> str:
    """The split of records without a table; BuildError if their codes or targets do not allow it."""
    if found.doubts:
        raise BuildError(
            f"{pattern}: the codes in these records cannot be trusted:\n  " + "\n  ".join(found.doubts) + "\n"
            "Give the table of the images with --csv, or the words of the codes as "
            "--codes 'sex=female|male,diagnosis=...', or no words after the = to read them as missing"
        )
    kind = spec.split
    if kind == "auto":
        kind = "train" if found.labelled else "test"
    if kind == "train" and not found.labelled:
        raise BuildError(f"{pattern}: --split train, but the records have no target")
    if kind == "train":
        _warn_of_patients(pattern, found.frame, ". Give the table of the images with --csv")
        if spec.split == "auto" and any(os.path.basename(file).startswith("test") for file in files):
            print(f"note: {pattern}: has targets, so it becomes training data; --split test leaves them out")
    elif found.labelled:
        print(f"note: {pattern}: --split test leaves out its targets")
    return kind


def _warn_of_patients(where: str | paths.AnyPath, frame: pd.DataFrame, advice: str = "") -> None:
    unnamed = frame[frame["patient"] == ""]
    if unnamed.empty:
        return
    number = f"{len(unnamed)} of {len(frame)} images {verb(len(unnamed), 'names', 'name')} no patient"
    who = "no image names a patient" if len(unnamed) == len(frame) else number
    by = "lesion" if (unnamed["lesion"] != "").any() else "image"
    print(f"warning: {where}: {who}: folded by {by}, so two folds may share a patient{advice}")


def _warn_of_codes(spec: InputSpec, pattern: str, frame: pd.DataFrame) -> None:
    coded = frame["patient"][frame["patient"].str.startswith(schema.CODE)]
    if coded.empty:
        return
    number = counted(coded.nunique(), "patient")
    are = f"{number} {verb(coded.nunique(), 'is a number', 'are numbers')} of this writer's table ({coded.iloc[0]})"
    text = f"warning: {pattern}: {are}, comparable with no other file"
    if spec.against:
        text += f": patients shared with {spec.against} are not recognised, so training and test may share one"
    print(f"{text}; give --csv")


def names_with_images(given: Input) -> set[str]:
    """Returns the image names of the table that have an image file."""
    names = given.frame["image_name"]
    if isinstance(given.images, tuple):
        return set(names)
    present = _files(given.images)
    return {name for name in names if files.file_of(name, present)}


def _files(folder: paths.AnyPath) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BuildError(f"{folder}: {error.strerror}; expected the folder of the images") from error


def images_of(given: Input, groups: list[str]) -> list[shards.Source]:
    """Returns the source of each row's image. groups: the leak group of each row."""
    rows = [{str(key): value for key, value in row.items()} for row in given.frame.to_dict("records")]
    if isinstance(given.images, tuple):
        return [
            shards.Source(
                file=f"{os.path.basename(place.path)}: record {place.record}",
                path=place.path,
                part=place.part,
                origin=place.origin,
                group=group,
                **row,
            )
            for row, group, place in zip(rows, groups, given.images, strict=True)
        ]
    present = _files(given.images)
    found = []
    for row, group in zip(rows, groups, strict=True):
        file = files.file_of(row["image_name"], present)
        path = None if file is None else str(given.images / file)
        found.append(shards.Source(file=file or row["image_name"] + files.EXTENSIONS[0], path=path, group=group, **row))
    return found


def check_any(given: Input, chosen: Sequence[shards.Source]) -> None:
    """Raises BuildError if no image is chosen, or none of the chosen ones exists."""
    if not chosen:
        raise BuildError(f"{given.name}: nothing is left to build")
    if all(source.path is None for source in chosen):
        left = "in all" if len(chosen) == len(given.frame) else "without those that are left out"
        raise BuildError(
            f"{given.images}: holds none of the images of {given.name}, {len(chosen)} {left}; expected files like "
            f"{files.expected(chosen[0].image_name)}"
        )
