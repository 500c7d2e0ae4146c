"""Where the rows and the images of a build come from: tables and folders, or the TFRecords of others."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.builder.settings import BuildError, BuildSettings
from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign import dialects, reader
from tfrecord_tools.imaging import files
from tfrecord_tools.metadata import formats, table
from tfrecord_tools.records import shards

COMPETITION = "siim-isic-melanoma-classification"
# Kaggle mounts competitions under the second path since 2026; older sessions have the first.
PLACES = (f"/kaggle/input/{COMPETITION}", f"/kaggle/input/competitions/{COMPETITION}", "data")


@dataclasses.dataclass(frozen=True)
class Input:
    """A table and its images. split: "train" (labelled) or "test". files: the CSVs, or what else the rows are from.

    frame: as `table.read_table` returns it, and source: the data set of each row. images: their folder, or the place of
    each row's image in foreign shards. form: of the table, or the dialect of the records that stand for one.
    same: pairs of image names that belong in one fold for reasons that the frame does not tell. quarantined: what of
    the foreign shards cannot be used. lost: records in it that are known to be lost with the rest of their file.
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
        """The files' names."""
        return ",".join(path.name for path in self.files)

    @property
    def sha256(self) -> str:
        """Of the file, or of the hashes of several."""
        hashes = [shards.file_sha256(file) for file in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(",".join(hashes).encode()).hexdigest()


def find(settings: BuildSettings) -> list[Input]:
    """The tables to build, each with its images. Raises BuildError, table.TableError, dialects.ForeignError."""
    if settings.from_tfrecords is not None:
        return [_foreign_input(settings, settings.from_tfrecords)]
    if settings.csv is not None and settings.images is not None:
        return [_table_input(settings, settings.split, settings.csv, paths.path(settings.images))]
    for place in map(paths.path, PLACES):
        found = {kind: (place / f"{kind}.csv", place / "jpeg" / kind) for kind in ("train", "test")}
        found = {kind: (csv, images) for kind, (csv, images) in found.items() if csv.is_file() and images.is_dir()}
        if settings.split != "auto":
            found = {kind: place for kind, place in found.items() if kind == settings.split}
        if settings.split in found or "train" in found:
            print(f"found {', '.join(str(csv) for csv, _ in found.values())}")
            return [_table_input(settings, kind, csv, images) for kind, (csv, images) in found.items()]
    looked = "\n".join(f"  {place}/train.csv with jpeg/train/ beside it (and test.csv, jpeg/test/)" for place in PLACES)
    raise BuildError(
        f"no data found. Looked for:\n{looked}\n"
        f"To get the data: accept the rules at https://www.kaggle.com/c/{COMPETITION}, then\n"
        f"  kaggle competitions download -c {COMPETITION} -p data && unzip data/{COMPETITION}.zip -d data\n"
        "To make a small synthetic data set instead:\n"
        "  python -m tfrecord_tools.synthetic --out data\n"
        "Or say where yours is with --csv and --images."
    )


def read_by(settings: BuildSettings) -> list[tuple[str, paths.AnyPath]]:
    """(flag, path) of each file and folder that the flags have a build read."""
    tables = settings.csv.split(",") if settings.csv else []
    shard_files = reader.find(settings.from_tfrecords) if settings.from_tfrecords is not None else []
    named = [("images", settings.images), ("duplicates", settings.duplicates)]
    given = [("csv", each) for each in tables] + [(flag, each) for flag, each in named if each]
    given += [("from_tfrecords", each) for each in shard_files]
    return [(flag, paths.path(each)) for flag, each in given] + [("against", each) for each in settings.others]


def _table_input(
    settings: BuildSettings, kind: str, given: str | paths.AnyPath, images: paths.AnyPath | tuple[reader.Place, ...]
) -> Input:
    tables = tuple(map(paths.path, given.split(","))) if isinstance(given, str) else (given,)
    columns = formats.parse_columns(settings.columns) if settings.columns else None
    if kind == "auto":
        kind = "train" if table.is_labelled(tables, settings.form, columns) else "test"
    form = table.form_of(tables, settings.form, columns)
    frame = table.read_table(tables, kind == "train", settings.form, columns)
    if kind == "train":
        _warn_of_patients(given, frame)
    elif table.is_labelled(tables, settings.form, columns):
        print(f"note: {given}: --split test leaves out its targets")
    return Input(kind, tables, frame.assign(source=settings.source or form.source), images, form.name)


def _foreign_input(settings: BuildSettings, pattern: str) -> Input:
    """Rows from the CSV if there is one, else from the records; images from the records."""
    keys = None
    if settings.columns and not settings.csv:
        keys = formats.parse_columns(settings.columns, dialects.KEYS)
    codes = dialects.parse_codes(settings.codes) if settings.codes else {}
    files = reader.find(pattern)
    found = reader.read_shards(files, settings.dialect, keys, codes, images_only=settings.csv is not None)
    same, quarantined = found.same, tuple(shards.Quarantined(*each[:3]) for each in found.unusable)
    lost = sum(each.lost for each in found.unusable)
    for shard, channels in found.channels.items():
        if channels.images and channels.swapped != settings.swap_rb:
            advice = "leave out" if settings.swap_rb else "give"
            print(f"warning: {shard}: {channels}. Look at a few of its images, and {advice} --swap_rb if that is so")
    if settings.csv is not None:
        rows = _table_input(settings, settings.split, settings.csv, found.places)
        frame = reader.with_table(found.frame, rows.frame)
        read = (*rows.files, *map(paths.path, files))
        return dataclasses.replace(rows, frame=frame, files=read, same=same, quarantined=quarantined, lost=lost)
    if found.doubts:
        raise BuildError(
            f"{pattern}: the codes in these records cannot be trusted:\n  " + "\n  ".join(found.doubts) + "\n"
            "Give the table of the images with --csv, or the words behind the codes as "
            "--codes 'sex=female|male,diagnosis=...', or nothing behind the = to leave them out"
        )
    kind = settings.split
    if kind == "auto":
        kind = "train" if found.labelled else "test"
    if kind == "train" and not found.labelled:
        raise BuildError(f"{pattern}: --split train, but the records have no target")
    if kind == "train":
        _warn_of_patients(pattern, found.frame, ". Give the table of the images with --csv")
        if settings.split == "auto" and any(os.path.basename(file).startswith("test") for file in files):
            print(f"note: {pattern}: has targets, so it becomes training data; --split test leaves them out")
    elif found.labelled:
        print(f"note: {pattern}: --split test leaves out its targets")
    _warn_of_codes(settings, pattern, found.frame)
    frame = found.frame if kind == "train" else found.frame.assign(target=schema.MISSING, diagnosis=schema.MISSING)
    frame = frame.assign(source=settings.source or list(found.sources))
    return Input(kind, tuple(map(paths.path, files)), frame, found.places, found.dialect, same, quarantined, lost)


def _warn_of_patients(where: str | paths.AnyPath, frame: pd.DataFrame, advice: str = "") -> None:
    unnamed = frame[frame["patient"] == ""]
    if unnamed.empty:
        return
    number = f"{len(unnamed)} of {len(frame)} images {verb(len(unnamed), 'names', 'name')} no patient"
    who = "no image names a patient" if len(unnamed) == len(frame) else number
    by = "lesion" if (unnamed["lesion"] != "").any() else "image"
    print(f"warning: {where}: {who}: folded by {by}, so two folds may share a patient{advice}")


def _warn_of_codes(settings: BuildSettings, pattern: str, frame: pd.DataFrame) -> None:
    coded = frame["patient"][frame["patient"].str.startswith(schema.CODE)]
    if coded.empty:
        return
    number = counted(coded.nunique(), "patient")
    are = f"{number} {verb(coded.nunique(), 'is a number', 'are numbers')} of this writer's table ({coded.iloc[0]})"
    text = f"warning: {pattern}: {are}, comparable with no other file"
    if settings.against:
        text += f": whoever is in {settings.against} too is not recognised, so training and test may share a patient"
    print(f"{text}; give --csv")


def names_with_images(given: Input) -> set[str]:
    """The image names of the table that have a image."""
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
    """Where the image of each row is. groups: the leak group of each row."""
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
    """BuildError if none of the images that are chosen to be built is there, or none is chosen."""
    if not chosen:
        raise BuildError(f"{given.name}: nothing is left to build")
    if all(source.path is None for source in chosen):
        left = "in all" if len(chosen) == len(given.frame) else "without those that are left out"
        raise BuildError(
            f"{given.images}: holds none of the images of {given.name}, {len(chosen)} {left}; expected files like "
            f"{files.expected(chosen[0].image_name)}"
        )
